use vmcast_wire::amtrelay::{Name, Record};

/// AMTRELAY records and names in them: what can be read can be written and reads the same, and is shown.
pub fn amtrelay(data: &[u8]) {
    if let Ok(record) = Record::parse(data) {
        let again = record.to_vec();
        assert!(data.starts_with(&again));
        assert!(!record.to_string().is_empty());
        assert_eq!(Record::parse(&again), Ok(record));
    }
    if let Ok(name) = Name::parse(data, 0) {
        assert_eq!(name.as_bytes(), data);
        assert!(name.labels().all(|label| (1..64).contains(&label.len())));
        assert!(name.to_string().ends_with('.'));
    }
}
