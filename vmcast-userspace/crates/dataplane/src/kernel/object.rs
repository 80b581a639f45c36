//! The compiled kernel programs, where the build found them.

#[cfg(vmcast_ebpf_object)]
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/vmcast-ebpf.o"));

/// The object, `None` in a build without it.
pub(crate) fn bytes() -> Option<&'static [u8]> {
    #[cfg(vmcast_ebpf_object)]
    return Some(OBJECT);
    #[cfg(not(vmcast_ebpf_object))]
    return None;
}

/// Whether this build carries the kernel programs.
#[must_use]
pub fn is_embedded() -> bool {
    bytes().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_of_a_default_build_has_no_log() {
        let Some(bytes) = bytes() else {
            eprintln!("SKIPPED: this build has no eBPF object");
            return;
        };
        let object = aya_obj::Object::parse(bytes).unwrap();
        assert!(object.maps.contains_key(vmcast_common::maps::STREAMS));
        assert!(!object.maps.contains_key("AYA_LOGS"), "the object was built with the feature `trace`");
    }
}
