//! A page of a list.

use schemars::JsonSchema;
use serde::Serialize;

use crate::input::page::Window;

/// Where the page is in the list.
#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Page {
    /// The most items of the page.
    limit: usize,
    /// Items of the whole list.
    total_count: usize,
    /// The item before the page; empty: none.
    after_id: String,
    /// The identifier to ask with for the next page; empty on an empty page.
    last_id: String,
}

impl Page {
    /// The page, said to begin after another item.
    pub(crate) fn with_after(self, after_id: String) -> Self {
        Self { after_id, ..self }
    }
}

/// The part of a list, sorted by identifier, that a client wants.
pub(crate) fn cut<T>(items: Vec<T>, window: Window, id: impl Fn(&T) -> &str) -> (Page, Vec<T>) {
    let total_count = items.len();
    let after = |item: &T| window.after.is_empty() || id(item) > window.after.as_str();
    let items: Vec<T> = items.into_iter().filter(after).take(window.limit).collect();
    let last_id = items
        .last()
        .map(|item| id(item).to_owned())
        .unwrap_or_default();
    let Window {
        limit,
        after: after_id,
    } = window;
    (
        Page {
            limit,
            total_count,
            after_id,
            last_id,
        },
        items,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(limit: usize, after: &str) -> (usize, String, Vec<&'static str>) {
        let window = Window {
            limit,
            after: after.to_owned(),
        };
        let (page, items) = cut(vec!["a", "a-2", "b", "c"], window, |item| item);
        (page.total_count, page.last_id, items)
    }

    #[test]
    fn pages_follow_each_other_until_an_empty_one() {
        assert_eq!(page(2, ""), (4, "a-2".to_owned(), vec!["a", "a-2"]));
        assert_eq!(page(2, "a-2"), (4, "c".to_owned(), vec!["b", "c"]));
        assert_eq!(page(2, "c"), (4, String::new(), vec![]));
        assert_eq!(
            page(100, "aa"),
            (4, "c".to_owned(), vec!["b", "c"]),
            "need not exist"
        );
    }
}
