//! Which part of a list a client wants.

use crate::error::{ApiError, Code};
use crate::request::Query;

/// The most items of a page, and how many there are when the client does not say.
pub(crate) const MAX_LIMIT: usize = 100;

/// Which part of a list a client wants.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// How many items.
    pub(crate) limit: usize,
    /// Only items after this one; empty: from the first.
    pub(crate) after: String,
}

impl Window {
    pub(crate) fn read(query: &Query) -> Result<Self, ApiError> {
        let after = query.get("afterId").unwrap_or_default().to_owned();
        let Some(limit) = query.get("limit") else {
            return Ok(Self {
                limit: MAX_LIMIT,
                after,
            });
        };
        let number: i64 = limit.parse().map_err(|_| {
            let message = format!("Query parameter \"limit\" must be a number, not {limit:?}.");
            ApiError::new(Code::InvalidFieldType, message)
        })?;
        match usize::try_from(number) {
            Ok(limit @ 1..=MAX_LIMIT) => Ok(Self { limit, after }),
            _ => Err(ApiError::new(
                Code::InvalidRange,
                format!("Query parameter \"limit\" must be from 1 to {MAX_LIMIT}, not {number}."),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<usize, Code> {
        let window = Window::read(&Query::parse(query));
        window
            .map(|window| window.limit)
            .map_err(|error| error.code)
    }

    #[test]
    fn the_limit_is_a_number_from_1_to_100() {
        assert_eq!(read(""), Ok(100));
        assert_eq!(read("limit=1"), Ok(1));
        assert_eq!(read("limit=100&afterId=x"), Ok(100));
        assert_eq!(read("limit=0"), Err(Code::InvalidRange));
        assert_eq!(read("limit=101"), Err(Code::InvalidRange));
        assert_eq!(read("limit=-5"), Err(Code::InvalidRange));
        assert_eq!(read("limit=many"), Err(Code::InvalidFieldType));
    }
}
