//! Long lists travel in pages, so that neither side ever holds a line of unbounded length.

use serde::{Deserialize, Serialize};

/// Most items of one page.
pub const MAX_PAGE: u32 = 1000;

/// Which part of a list is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Where the page before ended, as its answer said; `None` for the first page. The text means
    /// something to the daemon only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Most items to send, at most [`MAX_PAGE`].
    #[serde(default = "max_page")]
    pub limit: u32,
}

impl Default for Page {
    fn default() -> Self {
        Self { after: None, limit: MAX_PAGE }
    }
}

impl Page {
    /// Most items of this page, 1 or more.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit.clamp(1, MAX_PAGE) as usize
    }

    /// Takes this page out of a whole list: its items, and where the next page begins, if there is one.
    ///
    /// Items before and after it are only walked over, and `show` sees none of them. A list that
    /// changes between two pages may show an item twice or not at all.
    pub fn cut<I: IntoIterator, T>(
        &self,
        items: I,
        show: impl FnMut(I::Item) -> T,
    ) -> (Vec<T>, Option<String>) {
        // A cursor that is none of ours asks for a page past the end.
        let start = self.after.as_ref().map_or(0, |after| after.parse().unwrap_or(usize::MAX));
        let mut rest = items.into_iter().skip(start);
        let shown: Vec<T> = rest.by_ref().take(self.limit()).map(show).collect();
        let next = rest.next().map(|_| (start + shown.len()).to_string());
        (shown, next)
    }
}

fn max_page() -> u32 {
    MAX_PAGE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(after: Option<&str>, limit: u32) -> Page {
        Page { after: after.map(str::to_owned), limit }
    }

    #[test]
    fn pages_follow_each_other_without_gap_and_only_their_items_are_built() {
        let mut built = 0;
        let mut pages = Vec::new();
        let mut after = None;
        loop {
            let (items, next) = page(after.as_deref(), 4).cut(0..10, |item| {
                built += 1;
                item
            });
            pages.push(items);
            after = next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!((pages, built), (vec![vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8, 9]], 10));
        assert_eq!(page(None, 10).cut(0..10, |item| item).1, None);
    }

    #[test]
    fn a_page_past_the_end_is_empty_and_one_of_any_size_is_limited() {
        for after in ["3", "18446744073709551615", "99999999999999999999999", "-1", "x", ""] {
            assert_eq!(page(Some(after), u32::MAX).cut(0..3, |item| item), (vec![], None), "{after}");
        }
        let (items, next) = page(None, u32::MAX).cut(0..5000, |item| item);
        assert_eq!((items.len(), next.as_deref()), (MAX_PAGE as usize, Some("1000")));
        assert_eq!(page(None, 0).cut(0..3, |item| item), (vec![0], Some("1".to_owned())));
    }
}
