//! The text that tells a person what runs where, once everything does.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

use crate::component::Component;
use crate::config::Config;

/// Where the process can be reached.
#[derive(Debug, Default)]
pub struct Addresses {
    /// Health and metrics.
    pub admin: Option<SocketAddr>,
    /// Configuration API.
    pub api: Option<SocketAddr>,
    /// HTTP source.
    pub source: Option<SocketAddr>,
    /// Storage-writer, as others reach it.
    pub writer: Option<String>,
    /// The state.
    pub state: String,
}

/// The start-up text.
pub fn text(
    config: &Config,
    components: &BTreeSet<Component>,
    addresses: &Addresses,
    admin_token: Option<&AdminToken<'_>>,
) -> String {
    let mut text = format!("\nStream service {} is ready.\n\n", crate::VERSION);
    let mut line = |name: &str, value: String| {
        writeln!(text, "  {name:<16}{value}").expect("writing to a String cannot fail");
    };
    let names: Vec<_> = components
        .iter()
        .map(|component| component.name())
        .collect();
    line("components", names.join(", "));
    if let Some(api) = addresses.api {
        line("API", local_url(api));
    }
    if let Some(source) = addresses.source {
        line("HTTP source", local_url(source));
    }
    if let Some(writer) = &addresses.writer {
        line("storage writer", writer.clone());
    }
    if let Some(admin) = addresses.admin {
        line(
            "metrics, health",
            format!("{0}/metrics  {0}/ready", local_url(admin)),
        );
    }
    line("data directory", shown(&config.data_dir));
    line("state", addresses.state.clone());
    if components.contains(&Component::StorageCoordinator)
        && let Some(path) = &config.target.sqlite.path
    {
        line("tables", shown(path));
    }
    if let Some(token) = admin_token {
        line("admin token", token.path.display().to_string());
    }
    if let (Some(token), Some(api)) = (admin_token, addresses.api) {
        if let Some(created) = token.created {
            write!(
                text,
                "\nAn admin token was created; it is shown only this once:\n\n  {created}\n"
            )
            .expect("writing to a String cannot fail");
        }
        let next = match config.storage_api_host {
            None => next_step(token.path, api),
            Some(_) => next_step_with_projects(),
        };
        text.push_str(&next);
    }
    text
}

/// The admin token of a standalone installation.
pub struct AdminToken<'a> {
    /// The file that holds it.
    pub path: &'a Path,
    /// The token, when it was made just now.
    pub created: Option<&'a str>,
}

fn next_step(token: &Path, api: SocketAddr) -> String {
    format!(
        "\nNext, create a source:\n\n  TOKEN=$(cat {})\n  curl -s -H \"X-StorageApi-Token: $TOKEN\" -H 'Content-Type: application/json' \\\n    \
         -d '{{\"type\":\"http\",\"name\":\"My Source\"}}' {}/v1/branches/default/sources\n\n\
         README.md continues from there. Press Ctrl-C to stop.\n",
        token.display(),
        local_url(api)
    )
}

fn next_step_with_projects() -> String {
    "\nSources belong to projects: use a master token of one. The admin token shows /v1/status and /v1/diagnose.\n\
     Press Ctrl-C to stop.\n"
        .to_owned()
}

/// The address as a person on this machine would type it.
fn local_url(address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        format!("http://localhost:{}", address.port())
    } else {
        format!("http://{address}")
    }
}

fn shown(path: &Path) -> String {
    std::path::absolute(path)
        .unwrap_or_else(|_| path.to_owned())
        .display()
        .to_string()
}
