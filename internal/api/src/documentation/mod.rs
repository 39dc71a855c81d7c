//! The description of the API: OpenAPI 3.1 for programs, one page for people, both from the table of operations.
//!
//! Made when somebody asks for the first time, and kept: it depends on nothing that changes while the process runs.
//!
//! The page refuses to load anything: script and style are in it and its policy allows only those two, by their hashes. It
//! can be read without the script, which only searches.

mod document;
mod page;
mod schemas;

use std::sync::OnceLock;

use bytes::Bytes;
use hyper::header::HeaderValue;

pub(crate) use document::document;

/// Whose tokens the installation takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tokens {
    /// Its own.
    Local,
    /// Those of projects, with `storageApiHost`.
    OfProjects,
}

/// The description of the API.
pub(crate) struct Documentation {
    /// URL under which clients reach the API.
    server: String,
    version: &'static str,
    tokens: Tokens,
    rendered: OnceLock<Rendered>,
}

/// All its forms.
pub(crate) struct Rendered {
    pub(crate) json: Bytes,
    pub(crate) yaml: Bytes,
    pub(crate) page: Bytes,
    /// What the page may load.
    pub(crate) policy: HeaderValue,
}

impl Documentation {
    pub(crate) const fn new(server: String, version: &'static str, tokens: Tokens) -> Self {
        Self {
            server,
            version,
            tokens,
            rendered: OnceLock::new(),
        }
    }

    /// All its forms.
    pub(crate) fn rendered(&self) -> &Rendered {
        self.rendered.get_or_init(|| {
            let document = document(&self.server, self.version, self.tokens);
            let mut json =
                serde_json::to_vec_pretty(&document).expect("a JSON value always serialises");
            json.push(b'\n');
            let yaml = serde_yaml_ng::to_string(&document)
                .expect("a JSON value with text keys always serialises");
            Rendered {
                json: json.into(),
                yaml: yaml.into(),
                page: page::page(&document).into(),
                policy: page::policy(),
            }
        })
    }
}
