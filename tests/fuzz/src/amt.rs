use vmcast_wire::amt::Message;

/// AMT messages: what can be read can be written, no longer than it was, and reads the same.
pub fn amt(data: &[u8]) {
    if let Ok(message) = Message::parse(data) {
        let again = message.to_vec();
        assert_eq!(again.len(), message.buffer_len());
        assert!(again.len() <= data.len());
        assert_eq!(Message::parse(&again), Ok(message));
    }
}
