//! Randomness of the operating system.

/// Unguessable bytes.
///
/// # Panics
/// If the operating system has none; then there are no keys either.
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system has randomness");
    bytes
}
