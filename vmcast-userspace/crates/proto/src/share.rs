//! Room that is shared by many: whoever takes much of it leaves some to those who have little.

/// How much of one account there may be for each that is still free.
///
/// With 3, one account takes at most three quarters of all, two of them three sevenths each; some room is always left
/// to those who have little, and nothing has to be set aside for anybody. (The dynamic thresholds of shared buffers:
/// Choudhury and Hahne, IEEE/ACM Transactions on Networking 6(2), 1998.)
const PER_FREE: usize = 3;

/// How much more an account that holds so much may take of what is free.
pub(crate) const fn share(free: usize, held: usize) -> usize {
    let most = free.saturating_mul(PER_FREE).saturating_sub(held);
    if most < free { most } else { free }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_account_stops_at_three_quarters_and_the_next_one_finds_room() {
        let (mut first, mut second) = (0, 0);
        while share(100 - first, first) > 0 {
            first += 1;
        }
        assert_eq!(first, 75);
        while share(100 - first - second, second) > 0 {
            second += 1;
        }
        assert_eq!(second, 19);
        assert_eq!(share(0, 0), 0);
        assert_eq!(share(usize::MAX, 1), usize::MAX - 1);
    }
}
