//! Native templates: the part of Jsonnet that is a single call.
//!
//! ```text
//! Body()   Body('a.b[0]')   Body('a.b', 'default')   Body('a')['key.with.dots'].b[0]   BodyStr()
//! Header() Header('Name')   Header('Name', 'default') HeaderStr()
//! Ip()     Now()            Now('%Y-%m-%d')
//! ```
//!
//! They are compiled to the same lookups as path columns, cost the same, and keep the digits of numbers. Everything else is
//! for the interpreter ([`crate::jsonnet`]): it has no bound on time and memory, and belongs off this path.

use crate::canonical::push_json_string;
use crate::path::{self, Step};
use crate::record::canonical_name;
use crate::scan;
use crate::strftime::{self, Strftime};

/// A compiled template.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Template {
    /// A value of the body.
    Body {
        /// The path, for error messages.
        path: String,
        steps: Vec<Step>,
        default: Option<Literal>,
    },
    /// The body as a text.
    BodyStr,
    /// All headers as an object.
    Headers,
    /// One header.
    Header {
        /// Canonical.
        name: Box<str>,
        default: Option<Literal>,
    },
    /// All headers as lines.
    HeaderStr,
    /// The address of the client.
    Ip,
    /// The time of arrival.
    Now(Strftime),
}

/// A literal, as JSON text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Literal(pub String);

/// Why a template is refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TemplateError {
    /// It may be Jsonnet, but it is not a single call that is known here.
    Unsupported,
    Invalid(&'static str),
    Path {
        path: String,
        reason: path::PathError,
    },
}

type Result<T> = std::result::Result<T, TemplateError>;

/// Words that look like the name of a function when a parenthesis follows.
const KEYWORDS: &[&str] = &[
    "assert",
    "else",
    "error",
    "false",
    "for",
    "function",
    "if",
    "import",
    "importbin",
    "importstr",
    "in",
    "local",
    "null",
    "self",
    "super",
    "tailstrict",
    "then",
    "true",
];

const NO_ARGUMENTS: &str = "BodyStr, HeaderStr and Ip take no arguments; remove them";

/// Compiles a template.
pub(crate) fn parse(content: &str) -> Result<Template> {
    let mut parser = Parser { rest: content };
    let function = parser.name().ok_or(TemplateError::Unsupported)?;
    if KEYWORDS.contains(&function) || !parser.take('(') {
        return Err(TemplateError::Unsupported);
    }
    let arguments = parser.arguments()?;
    let accessors = parser.accessors()?;
    if !parser.rest.is_empty() {
        return Err(TemplateError::Unsupported);
    }
    let template = call(function, arguments, &accessors)?;
    match template {
        Template::Body { .. } => Ok(template),
        _ if accessors.is_empty() => Ok(template),
        _ => Err(TemplateError::Unsupported),
    }
}

fn call(function: &str, arguments: Vec<Argument>, accessors: &[Step]) -> Result<Template> {
    match function {
        "Body" => body(arguments, accessors),
        "Header" => header(arguments),
        "Now" => now(arguments),
        "BodyStr" | "HeaderStr" | "Ip" if !arguments.is_empty() => {
            Err(TemplateError::Invalid(NO_ARGUMENTS))
        }
        "BodyStr" => Ok(Template::BodyStr),
        "HeaderStr" => Ok(Template::HeaderStr),
        "Ip" => Ok(Template::Ip),
        // The interpreter tells unknown functions with their place.
        _ => Err(TemplateError::Unsupported),
    }
}

fn body(arguments: Vec<Argument>, accessors: &[Step]) -> Result<Template> {
    const EXPECTED: &str =
        "Body takes a path as a string and a default, both optional; write Body('a.b', null)";
    let (path, default) = text_and_default(arguments, EXPECTED)?;
    if default.is_some() && !accessors.is_empty() {
        return Err(TemplateError::Unsupported);
    }
    let mut path = path.unwrap_or_default();
    let mut steps = match path::parse(&path) {
        Ok(steps) => steps,
        Err(reason) => return Err(TemplateError::Path { path, reason }),
    };
    for step in accessors {
        match step {
            Step::Key(key) => {
                path.push('[');
                push_json_string(&mut path, key);
                path.push(']');
            }
            Step::Index(index) => path.push_str(&format!("[{index}]")),
        }
        steps.push(step.clone());
    }
    if steps.len() > path::MAX_STEPS {
        return Err(TemplateError::Invalid(
            "it reaches deeper than 128 levels, and no body is",
        ));
    }
    Ok(Template::Body {
        path,
        steps,
        default,
    })
}

fn header(arguments: Vec<Argument>) -> Result<Template> {
    const EXPECTED: &str = "Header takes a name as a string and a default, both optional; write Header('User-Agent', null)";
    let (name, default) = text_and_default(arguments, EXPECTED)?;
    Ok(match name {
        None => Template::Headers,
        Some(name) => Template::Header {
            name: canonical_name(&name),
            default,
        },
    })
}

fn now(arguments: Vec<Argument>) -> Result<Template> {
    const EXPECTED: &str = "Now takes one format as a string, or nothing; write Now('%Y-%m-%d')";
    let (format, default) = text_and_default(arguments, EXPECTED)?;
    if default.is_some() {
        return Err(TemplateError::Invalid(EXPECTED));
    }
    let format = format.as_deref().unwrap_or(strftime::DEFAULT);
    let format = Strftime::parse(format);
    format
        .map(Template::Now)
        .ok_or(TemplateError::Invalid(strftime::UNKNOWN_DIRECTIVE))
}

/// Arguments that are nothing, a text, or a text and a default.
fn text_and_default(
    arguments: Vec<Argument>,
    expected: &'static str,
) -> Result<(Option<String>, Option<Literal>)> {
    let mut arguments = arguments.into_iter();
    let text = match arguments.next() {
        None => None,
        Some(Argument::Text(text)) => Some(text),
        Some(Argument::Other(_)) => return Err(TemplateError::Invalid(expected)),
    };
    let default = arguments.next().map(Argument::into_literal);
    match arguments.next() {
        None => Ok((text, default)),
        Some(_) => Err(TemplateError::Invalid(expected)),
    }
}

enum Argument {
    Text(String),
    /// A number, `true`, `false` or `null`.
    Other(String),
}

impl Argument {
    fn into_literal(self) -> Literal {
        match self {
            Self::Text(text) => {
                let mut json = String::new();
                push_json_string(&mut json, &text);
                Literal(json)
            }
            Self::Other(json) => Literal(json),
        }
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    /// Takes a character and the space around it, if it is the next.
    fn take(&mut self, c: char) -> bool {
        self.skip_space();
        let Some(rest) = self.rest.strip_prefix(c) else {
            return false;
        };
        self.rest = rest;
        self.skip_space();
        true
    }

    fn name(&mut self) -> Option<&'a str> {
        self.skip_space();
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let (name, rest) = self
            .rest
            .split_at(self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len()));
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        self.rest = rest;
        Some(name)
    }

    /// Takes literals up to the closing parenthesis. The opening one is taken already.
    fn arguments(&mut self) -> Result<Vec<Argument>> {
        let mut arguments = Vec::new();
        while !self.take(')') {
            arguments.push(self.argument()?);
            if !self.take(',') && !self.rest.starts_with(')') {
                return Err(TemplateError::Unsupported);
            }
        }
        Ok(arguments)
    }

    fn argument(&mut self) -> Result<Argument> {
        if self.rest.starts_with(['\'', '"']) {
            return self.string().map(Argument::Text);
        }
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.' | '_');
        let len = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(len);
        if !matches!(word, "null" | "true" | "false") && !scan::is_number(word.as_bytes()) {
            return Err(TemplateError::Unsupported);
        }
        self.rest = rest;
        Ok(Argument::Other(word.to_owned()))
    }

    /// Takes what may follow the call: `.name`, `['name']`, `[0]`.
    fn accessors(&mut self) -> Result<Vec<Step>> {
        let mut steps = Vec::new();
        loop {
            if self.take('.') {
                let name = self.name().filter(|name| !KEYWORDS.contains(name));
                steps.push(Step::Key(name.ok_or(TemplateError::Unsupported)?.into()));
            } else if self.take('[') {
                steps.push(match self.argument()? {
                    Argument::Text(key) => Step::Key(key.into()),
                    Argument::Other(number) => {
                        Step::Index(number.parse().map_err(|_| TemplateError::Unsupported)?)
                    }
                });
                if !self.take(']') {
                    return Err(TemplateError::Unsupported);
                }
            } else {
                return Ok(steps);
            }
        }
    }

    /// Takes a string with either kind of quotes.
    fn string(&mut self) -> Result<String> {
        const UNCLOSED: TemplateError =
            TemplateError::Invalid("a string has no closing quote; add it");
        let mut chars = self.rest.chars();
        let quote = chars.next().ok_or(UNCLOSED)?;
        let mut text = String::new();
        loop {
            match chars.next().ok_or(UNCLOSED)? {
                c if c == quote => break,
                '\\' => {
                    let (c, rest) = escaped(chars.as_str())?;
                    text.push(c);
                    chars = rest.chars();
                }
                c => text.push(c),
            }
        }
        self.rest = chars.as_str();
        Ok(text)
    }
}

/// Decodes what follows a backslash.
fn escaped(text: &str) -> Result<(char, &str)> {
    const UNKNOWN: TemplateError = TemplateError::Invalid(
        "a string has an unknown escape sequence; use \\\\ \\' \\\" \\/ \\b \\f \\n \\r \\t or \\uXXXX",
    );
    let mut chars = text.chars();
    let c = match chars.next().ok_or(UNKNOWN)? {
        c @ ('\\' | '\'' | '"' | '/') => c,
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'u' => return escaped_code_point(chars.as_str()).ok_or(UNKNOWN),
        _ => return Err(UNKNOWN),
    };
    Ok((c, chars.as_str()))
}

/// Decodes what follows `\u`: one code unit, or a surrogate pair.
fn escaped_code_point(text: &str) -> Option<(char, &str)> {
    let (first, rest) = code_unit(text)?;
    if let Some(c) = char::from_u32(u32::from(first)) {
        return Some((c, rest));
    }
    let (second, rest) = code_unit(rest.strip_prefix("\\u")?)?;
    let c = char::decode_utf16([first, second]).next()?.ok()?;
    Some((c, rest))
}

fn code_unit(text: &str) -> Option<(u16, &str)> {
    let (digits, rest) = text.split_at_checked(4)?;
    // The parser of numbers would also take a sign.
    if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    Some((u16::from_str_radix(digits, 16).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(path: &str, default: Option<&str>) -> Template {
        let steps = path::parse(path).expect("valid path");
        Template::Body {
            path: path.to_owned(),
            steps,
            default: default.map(|d| Literal(d.to_owned())),
        }
    }

    #[test]
    fn single_calls_are_compiled() {
        for (content, template) in [
            ("Body()", body("", None)),
            (" \n Body ( ) \t", body("", None)),
            ("Body('a.b[0]')", body("a.b[0]", None)),
            ("Body(\"a\")", body("a", None)),
            ("Body('a', 'x')", body("a", Some("\"x\""))),
            (
                "Body('a', \"\\u00e9\\n'\\\"\\ud83d\\ude00\",)",
                body("a", Some("\"é\\n'\\\"😀\"")),
            ),
            ("Body('a',-1.5e3)", body("a", Some("-1.5e3"))),
            ("Body('a', null)", body("a", Some("null"))),
            ("Body('', true)", body("", Some("true"))),
            ("BodyStr()", Template::BodyStr),
            ("Header()", Template::Headers),
            (
                "Header('x-ID')",
                Template::Header {
                    name: "X-Id".into(),
                    default: None,
                },
            ),
            ("HeaderStr()", Template::HeaderStr),
            ("Ip()", Template::Ip),
            (
                "Now()",
                Template::Now(Strftime::parse(strftime::DEFAULT).expect("known")),
            ),
            (
                "Now('%Y')",
                Template::Now(Strftime::parse("%Y").expect("known")),
            ),
        ] {
            assert_eq!(parse(content), Ok(template), "{content}");
        }
    }

    #[test]
    fn accessors_reach_names_that_no_path_can() {
        let Ok(Template::Body {
            path,
            steps,
            default: None,
        }) = parse("Body('a')['b.c'] . d [ 0 ][\"\"]")
        else {
            panic!("must compile");
        };
        assert_eq!(path, r#"a["b.c"]["d"][0][""]"#);
        let key = |key: &str| Step::Key(key.into());
        assert_eq!(
            steps,
            [key("a"), key("b.c"), key("d"), Step::Index(0), key("")]
        );
    }

    #[test]
    fn other_jsonnet_is_left_to_the_interpreter() {
        for content in [
            "Invalid()",
            "body('a')",
            "Body('a', 1)['b']",
            "Body('a') + 1",
            "local x = 1; x",
            "{a: Body()}",
            "'text'",
            "std.length(Body())",
            "Body",
            "if (true) then 1",
            "Body(Body())",
            "Body(path='a')",
            "Header()['a']",
            "Ip().x",
            "Body()[-1]",
            "Body()[1.5]",
            "Body()['a':]",
            "Body() Body()",
            "",
            "(Body())",
            "Body('a' 'b')",
            "Body().if",
            "Body(,)",
            "error('x')",
            "// comment\nBody()",
        ] {
            assert_eq!(parse(content), Err(TemplateError::Unsupported), "{content}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        assert!(
            matches!(parse("Body('a..b')"), Err(TemplateError::Path { path, .. }) if path == "a..b")
        );
        for content in [
            "Body(1)",
            "Body('a', 1, 2)",
            "Header(null)",
            "Header('a', 'b', 'c')",
            "Now(1)",
            "Now('%Q')",
            "Now('%Y', 'x')",
            "Ip('a')",
            "BodyStr(1)",
            "HeaderStr('a')",
            "Body('a",
            "Body('\\x')",
            "Body('\\ud800')",
            "Body('\\u+123')",
            "Body('\\u12é')",
            "Body('a', {}) ",
        ] {
            let refused = parse(content);
            let expected_unsupported = content.contains("{}");
            assert_eq!(
                matches!(refused, Err(TemplateError::Unsupported)),
                expected_unsupported,
                "{content}: {refused:?}"
            );
            assert!(refused.is_err(), "{content}");
        }
        let deep = format!("Body(){}", "[0]".repeat(129));
        assert!(matches!(parse(&deep), Err(TemplateError::Invalid(_))));
    }
}
