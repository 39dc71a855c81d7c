//! Versions as shown.

use schemars::JsonSchema;
use serde::Serialize;
use stream_model::definition::Version;

use super::page::{Page, cut};
use super::shape;
use crate::error::{ApiError, Code};
use crate::input::page::Window;

/// A page of versions. Their identifiers in a page are the numbers with ten digits.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct VersionsView {
    #[schemars(with = "Vec<shape::Version>")]
    versions: Vec<Version>,
    page: Page,
}

impl VersionsView {
    /// The part of `versions`, oldest first, that a client wants. Its `totalCount` is the number of versions from there
    /// on, which is what existing clients know of it.
    pub(crate) fn new(versions: Vec<Version>, window: Window) -> Result<Self, ApiError> {
        let first = match window.after.as_str() {
            "" => 0,
            after => after.parse::<u64>().map_err(|_| not_a_number(after))? + 1,
        };
        let window = Window {
            after: padded(first.saturating_sub(1)),
            ..window
        };
        let after_id = if first == 0 {
            String::new()
        } else {
            window.after.clone()
        };
        let rest = versions
            .into_iter()
            .filter(|version| version.number >= first);
        let rest = rest
            .map(|version| (padded(version.number), version))
            .collect();
        let (page, rest) = cut(rest, window, |(id, _)| id.as_str());
        Ok(Self {
            versions: rest.into_iter().map(|(_, version)| version).collect(),
            page: page.with_after(after_id),
        })
    }
}

fn padded(number: u64) -> String {
    format!("{number:010}")
}

fn not_a_number(after: &str) -> ApiError {
    let message = format!("Query parameter \"afterId\" must be a version number, not {after:?}.");
    ApiError::new(Code::InvalidFieldType, message)
}

#[cfg(test)]
mod tests {
    use stream_model::Timestamp;
    use stream_model::definition::Actor;

    use super::*;

    fn page(limit: usize, after: &str) -> Result<serde_json::Value, Code> {
        let versions = (1..=12).map(|number| Version {
            number,
            hash: String::new(),
            description: String::new(),
            at: Timestamp::from_millis(0),
            by: Actor::System,
        });
        let window = Window {
            limit,
            after: after.to_owned(),
        };
        let view = VersionsView::new(versions.collect(), window).map_err(|error| error.code)?;
        let view = serde_json::to_value(view).expect("JSON");
        let numbers = view["versions"].as_array().expect("a list");
        let numbers: Vec<_> = numbers.iter().map(|it| it["number"].clone()).collect();
        let page = &view["page"];
        Ok(serde_json::json!([
            numbers,
            page["totalCount"],
            page["afterId"],
            page["lastId"]
        ]))
    }

    #[test]
    fn pages_of_versions_follow_each_other_by_number() {
        let expected = |json: &str| Ok(serde_json::from_str(json).expect("JSON"));
        assert_eq!(page(2, ""), expected(r#"[[1,2],12,"","0000000002"]"#));
        assert_eq!(
            page(2, "9"),
            expected(r#"[[10,11],3,"0000000009","0000000011"]"#)
        );
        assert_eq!(page(2, "0000000012"), expected(r#"[[],0,"0000000012",""]"#));
        assert_eq!(page(2, "x"), Err(Code::InvalidFieldType));
    }
}
