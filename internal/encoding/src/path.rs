//! Paths into a body: `customer.emails[0]`.
//!
//! Steps are separated by dots; `[n]` is the n-th item of an array, counted from 0. The empty path is the whole body.
//! A key that contains a dot or a bracket cannot be written here (a template can reach it: `Body('a')['b.c']`).

/// The most steps of a path. No body is nested deeper than [`crate::scan::MAX_DEPTH`], so a longer one finds nothing.
pub(crate) const MAX_STEPS: usize = crate::scan::MAX_DEPTH;

/// One step from a value into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// The member of an object.
    Key(Box<str>),
    /// The item of an array.
    Index(u32),
}

/// Why a text is not a path, with what to write instead.
pub(crate) type PathError = &'static str;

/// Parses a path.
pub(crate) fn parse(path: &str) -> Result<Vec<Step>, PathError> {
    let mut steps = Vec::new();
    if path.is_empty() {
        return Ok(steps);
    }
    for (position, part) in path.split('.').enumerate() {
        let (key, mut indexes) = part.split_at(part.find('[').unwrap_or(part.len()));
        if key.contains(']') {
            return Err("a ']' has no '['; write items as name[0]");
        }
        // Only the very first part may lack a name: `[0].id` looks into a body that is an array.
        if !key.is_empty() {
            steps.push(Step::Key(key.into()));
        } else if position > 0 || indexes.is_empty() {
            return Err(
                "a step has no name; write names separated by single dots, such as a.b[0].c",
            );
        }
        while !indexes.is_empty() {
            let (index, rest) = parse_index(indexes)?;
            steps.push(Step::Index(index));
            indexes = rest;
        }
    }
    if steps.len() > MAX_STEPS {
        return Err("it has more than 128 steps, and no body is accepted that is nested as deep");
    }
    Ok(steps)
}

/// Takes one `[n]` off the front.
fn parse_index(text: &str) -> Result<(u32, &str), PathError> {
    const EXPECTED: &str =
        "between '[' and ']' there must be a number from 0 to 4294967295; write items as name[0]";
    let (number, rest) = text
        .strip_prefix('[')
        .and_then(|text| text.split_once(']'))
        .ok_or(EXPECTED)?;
    if !number.bytes().all(|b| b.is_ascii_digit()) {
        return Err(EXPECTED);
    }
    if !rest.is_empty() && !rest.starts_with('[') {
        return Err("after ']' there must be a dot, another '[' or the end; write a[0].b");
    }
    number
        .parse()
        .map(|index| (index, rest))
        .map_err(|_| EXPECTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Step {
        Step::Key(text.into())
    }

    #[test]
    fn parses_names_and_indexes() {
        for (path, steps) in [
            ("", vec![]),
            ("a", vec![key("a")]),
            (
                "a.b[0].c",
                vec![key("a"), key("b"), Step::Index(0), key("c")],
            ),
            ("[3][2].x", vec![Step::Index(3), Step::Index(2), key("x")]),
            ("a.0", vec![key("a"), key("0")]),
            ("with space.é", vec![key("with space"), key("é")]),
        ] {
            assert_eq!(parse(path), Ok(steps), "{path}");
        }
    }

    #[test]
    fn refuses_what_could_only_be_a_mistake() {
        for path in [
            ".",
            "a.",
            ".a",
            "a..b",
            "a[",
            "a[]",
            "a[x]",
            "a[-1]",
            "a[+1]",
            "a]",
            "a[0]b",
            "a.[0]",
            "a[4294967296]",
        ] {
            assert!(parse(path).is_err(), "{path}");
        }
        assert!(parse(&vec!["a"; MAX_STEPS].join(".")).is_ok());
        assert!(parse(&vec!["a"; MAX_STEPS + 1].join(".")).is_err());
    }
}
