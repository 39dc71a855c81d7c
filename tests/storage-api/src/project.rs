//! What an installation holds.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::call::Call;

/// The default branch of a project is its number plus this.
pub const BRANCH_OFFSET: u64 = 100;

/// The tokens of a new project.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// A person with the role `admin`.
    pub admin: String,
    /// A person with the role `readOnly`.
    pub read_only: String,
    /// Nobody's, for one bucket.
    pub limited: String,
}

/// What a project has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Identifiers of buckets.
    pub buckets: Vec<String>,
    /// Identifiers of tables with their columns.
    pub tables: Vec<(String, Vec<String>)>,
    /// Descriptions of tokens that were made through the API.
    pub tokens: Vec<String>,
    /// The bucket permissions of those tokens.
    pub permissions: Vec<Value>,
    /// Names of files.
    pub files: Vec<String>,
    /// Messages of events.
    pub events: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct Installation {
    pub(crate) projects: BTreeMap<u64, Project>,
    next: u64,
    /// How many calls to a project pass until a table is made there.
    pub(crate) job_calls: u32,
}

impl Default for Installation {
    fn default() -> Self {
        Self {
            projects: BTreeMap::new(),
            next: 0,
            job_calls: 2,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Project {
    pub(crate) tokens: BTreeMap<u64, Token>,
    /// Buckets with their descriptions.
    pub(crate) buckets: BTreeMap<String, String>,
    pub(crate) tables: BTreeMap<String, Table>,
    pub(crate) files: BTreeMap<u64, File>,
    pub(crate) jobs: BTreeMap<u64, Job>,
    pub(crate) events: Vec<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub(crate) id: u64,
    pub(crate) secret: String,
    pub(crate) description: String,
    /// Of a person's token.
    pub(crate) role: Option<&'static str>,
    pub(crate) permissions: Value,
    /// The token with which it was made through the API.
    pub(crate) maker: Option<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub(crate) columns: Vec<String>,
    pub(crate) primary_key: Vec<String>,
    pub(crate) rows: u64,
}

#[derive(Debug)]
pub(crate) struct File {
    pub(crate) name: String,
    pub(crate) tags: Vec<String>,
    pub(crate) token: u64,
}

/// A table that is being made.
#[derive(Debug)]
pub(crate) struct Job {
    /// How many calls pass until it is.
    pub(crate) left: u32,
    pub(crate) table: Option<(String, Table)>,
    /// Whether its bucket was there still.
    pub(crate) is_good: bool,
}

impl Project {
    /// Time passes: one more call.
    pub(crate) fn work(&mut self) {
        for job in self.jobs.values_mut() {
            job.left = job.left.saturating_sub(1);
            if job.left > 0 {
                continue;
            }
            let Some((id, table)) = job.table.take() else {
                continue;
            };
            let bucket = id.rsplit_once('.').map_or("", |(bucket, _)| bucket);
            job.is_good = self.buckets.contains_key(bucket);
            if job.is_good {
                self.tables.insert(id, table);
            }
        }
    }
}

impl Installation {
    pub(crate) fn number(&mut self) -> u64 {
        self.next += 1;
        1000 + self.next
    }

    pub(crate) fn add_project(&mut self, id: u64) -> Tokens {
        self.projects.entry(id).or_default();
        let mut add = |description: &str, role: Option<&'static str>| {
            let number = self.number();
            let token = Token {
                id: number,
                secret: format!("{id}-{number}-secret"),
                description: description.to_owned(),
                role,
                permissions: Value::Null,
                maker: None,
            };
            let secret = token.secret.clone();
            let project = self.projects.entry(id).or_default();
            project.tokens.insert(number, token);
            secret
        };
        Tokens {
            admin: add("ann@example.com", Some("admin")),
            read_only: add("rob@example.com", Some("readOnly")),
            limited: add("a machine", None),
        }
    }

    pub(crate) fn add_admin(&mut self, id: u64) -> String {
        let number = self.number();
        let token = Token {
            id: number,
            secret: format!("{id}-{number}-secret"),
            description: format!("person-{number}@example.com"),
            role: Some("admin"),
            permissions: Value::Null,
            maker: None,
        };
        let secret = token.secret.clone();
        let project = self.projects.entry(id).or_default();
        project.tokens.insert(number, token);
        secret
    }

    /// The token of the person behind a call.
    pub(crate) fn person_of(&self, call: &Call) -> Option<String> {
        let (_, token) = self.find(call.token.as_deref()?)?;
        Some(token.maker.unwrap_or(token.secret))
    }

    pub(crate) fn forget_token(&mut self, secret: &str) {
        for project in self.projects.values_mut() {
            project.tokens.retain(|_, token| token.secret != secret);
        }
    }

    pub(crate) fn add_table(&mut self, project: u64, table: &str, columns: &[&str]) {
        let project = self.projects.entry(project).or_default();
        let bucket = table.rsplit_once('.').map_or(table, |(bucket, _)| bucket);
        project
            .buckets
            .insert(bucket.to_owned(), "by hand".to_owned());
        let table_of = Table {
            columns: columns.iter().map(|column| (*column).to_owned()).collect(),
            primary_key: Vec::new(),
            rows: 7,
        };
        project.tables.insert(table.to_owned(), table_of);
    }

    /// The project of a token, and the token.
    pub(crate) fn find(&self, secret: &str) -> Option<(u64, Token)> {
        self.projects.iter().find_map(|(id, project)| {
            let token = project.tokens.values().find(|it| it.secret == secret)?;
            Some((*id, token.clone()))
        })
    }

    pub(crate) fn holdings(&self, project: u64) -> Holdings {
        let Some(project) = self.projects.get(&project) else {
            return Holdings::default();
        };
        let made = || {
            project
                .tokens
                .values()
                .filter(|token| token.maker.is_some())
        };
        let tables = project.tables.iter();
        Holdings {
            buckets: project.buckets.keys().cloned().collect(),
            tables: tables
                .map(|(id, table)| (id.clone(), table.columns.clone()))
                .collect(),
            tokens: made().map(|token| token.description.clone()).collect(),
            permissions: made().map(|token| token.permissions.clone()).collect(),
            files: project
                .files
                .values()
                .map(|file| file.name.clone())
                .collect(),
            events: project.events.clone(),
        }
    }
}
