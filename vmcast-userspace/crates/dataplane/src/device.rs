//! Network devices by their numbers.

use std::ffi::CString;

/// The name of a device of this network namespace; `None` if there is none of this number.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "its empty name is looked for here")]
pub fn name_of(ifindex: u32) -> Option<CString> {
    // nix 0.31 takes the null pointer of `if_indextoname(3)` for a success, and returns an empty name.
    nix::net::if_::if_indextoname(ifindex).ok().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_has_no_name() {
        assert_eq!(name_of(1).as_deref(), Some(c"lo"));
        assert_eq!(name_of(0), None);
        assert_eq!(name_of(i32::MAX.cast_unsigned()), None);
    }
}
