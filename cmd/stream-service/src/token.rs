//! `token create|list|revoke`: the local tokens of the configuration API.
//!
//! A token is shown once, when it is made: the state has only its hash. The service may run or not.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use stream_model::Clock;
use stream_model::definition::Token;
use stream_model::definition::token::Role;
use stream_model::time::SystemClock;
use stream_state::StateError;

use crate::config::Config;
use crate::state;

/// The most characters of a description.
const MAX_DESCRIPTION_LEN: usize = 200;

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Make one.
    Create {
        /// What it may do.
        role: Role,
        /// What it is for.
        description: String,
    },
    /// Show all, without their secrets.
    List,
    /// Make one worthless.
    Revoke(String),
}

/// Reads the words after `token`.
///
/// # Errors
/// When they are none of the orders.
pub fn parse(words: &[&str]) -> anyhow::Result<Order> {
    match words {
        ["create", role, description @ ..] => {
            let description = description.join(" ");
            if description.chars().count() > MAX_DESCRIPTION_LEN {
                return Err(anyhow!(
                    "a description has at most {MAX_DESCRIPTION_LEN} characters"
                ));
            }
            let role = role_of(role)?;
            Ok(Order::Create { role, description })
        }
        ["list"] => Ok(Order::List),
        ["revoke", id] => Ok(Order::Revoke((*id).to_owned())),
        _ => Err(anyhow!(
            "it is \"token create admin|read-only [DESCRIPTION]\", \"token list\" or \"token revoke ID\""
        )),
    }
}

fn role_of(word: &str) -> anyhow::Result<Role> {
    match word {
        "admin" => Ok(Role::Admin),
        "read-only" | "readOnly" => Ok(Role::ReadOnly),
        other => Err(anyhow!(
            "there is no role {other:?}; the roles are \"admin\" and \"read-only\""
        )),
    }
}

fn name_of(role: Role) -> &'static str {
    match role {
        Role::Admin => "admin",
        Role::ReadOnly => "read-only",
    }
}

/// Carries the order out.
///
/// # Errors
/// When the state cannot be reached, or has no such token.
pub async fn run(config: &Config, order: Order) -> anyhow::Result<ExitCode> {
    let text = match order {
        Order::Create { role, description } => create(config, role, description).await?,
        Order::List => {
            let tokens = Box::pin(state::with_store(config, async |store| {
                store.tokens().await
            }));
            listed(tokens.await?)
        }
        Order::Revoke(id) => revoke(config, &id).await?,
    };
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("cannot write to standard output")?;
    Ok(ExitCode::SUCCESS)
}

/// Only the token goes to standard output, so that a script can catch it.
async fn create(config: &Config, role: Role, description: String) -> anyhow::Result<String> {
    let token = stream_api::token::generate();
    let (hash, record) = stream_api::token::record(&token, role, description, SystemClock.now());
    let id = record.id.clone();
    let stored = state::with_store(config, async |store| {
        store.create_token(&hash, record).await.map(|_| ())
    });
    Box::pin(stored).await?;
    let _ = writeln!(
        std::io::stderr(),
        "Token {id} ({}) was created; it is shown only this once:",
        name_of(role)
    );
    Ok(format!("{}\n", token.expose()))
}

async fn revoke(config: &Config, id: &str) -> anyhow::Result<String> {
    let revoked = state::with_store(config, async |store| match store.revoke_token(id).await {
        Err(StateError::NotFound { .. }) => Ok(false),
        other => other.map(|()| true),
    });
    if !Box::pin(revoked).await? {
        return Err(anyhow!("there is no token {id:?}; see \"token list\""));
    }
    Ok(format!(
        "Token {id} is revoked; running services believe it for at most a minute.\n"
    ))
}

fn listed(mut tokens: Vec<Token>) -> String {
    tokens.sort_by_key(|token| (token.created_at, token.id.clone()));
    let mut text = String::new();
    for token in tokens {
        let (role, at) = (name_of(token.role), token.created_at);
        let _ = writeln!(text, "{}  {role:<9}  {at}  {}", token.id, token.description);
    }
    text
}

#[cfg(test)]
mod tests {
    use stream_model::Timestamp;

    use super::*;

    #[test]
    fn orders_are_read_and_others_refused() {
        let create = |role, description: &str| Order::Create {
            role,
            description: description.to_owned(),
        };
        for (words, order) in [
            (&["create", "admin"][..], create(Role::Admin, "")),
            (
                &["create", "read-only", "for", "dashboards"],
                create(Role::ReadOnly, "for dashboards"),
            ),
            (&["list"], Order::List),
            (&["revoke", "abc"], Order::Revoke("abc".to_owned())),
        ] {
            assert_eq!(parse(words).expect("an order"), order);
        }
        let long = "x".repeat(MAX_DESCRIPTION_LEN + 1);
        for words in [
            &[][..],
            &["create"],
            &["create", "root"],
            &["create", "admin", &long],
            &["list", "x"],
            &["revoke"],
        ] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn a_list_shows_the_oldest_first_and_no_secret() {
        let token = |id: &str, at| Token {
            id: id.to_owned(),
            description: format!("for {id}"),
            role: Role::ReadOnly,
            created_at: Timestamp::from_millis(at),
        };
        let text = listed(vec![token("b", 2_000), token("a", 1_000)]);
        assert_eq!(
            text,
            "a  read-only  1970-01-01T00:00:01.000Z  for a\nb  read-only  1970-01-01T00:00:02.000Z  for b\n"
        );
    }
}
