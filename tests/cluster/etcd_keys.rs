//! Keys of an etcd, looked at past the service: through the JSON interface that etcd has beside gRPC.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper::Method;
use serde_json::{Value, json};
use stream_tests::client::{Reply, request, send_once};
use stream_tests_etcd::Cluster;

/// What stands under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The value.
    pub value: String,
    /// The lease it lives as long as; 0 for none.
    pub lease: i64,
}

/// Everything that etcd holds, from the first member.
pub async fn all(cluster: &Cluster) -> anyhow::Result<BTreeMap<String, Stored>> {
    // etcd's way to say it: from the least key on, without an end.
    range(cluster, b"\0", b"\0").await
}

/// Everything under a prefix, from the first member.
pub async fn under(cluster: &Cluster, prefix: &str) -> anyhow::Result<BTreeMap<String, Stored>> {
    let mut end = prefix.as_bytes().to_vec();
    let last = end.last_mut().context("a prefix has a last byte")?;
    *last += 1;
    range(cluster, prefix.as_bytes(), &end).await
}

async fn range(
    cluster: &Cluster,
    first: &[u8],
    end: &[u8],
) -> anyhow::Result<BTreeMap<String, Stored>> {
    let [first, end] = [first, end].map(|key| BASE64_STANDARD.encode(key));
    let question = json!({"key": first, "range_end": end});
    let answer = call(cluster, "/v3/kv/range", &question).await?.json();
    let mut found = BTreeMap::new();
    for kv in answer["kvs"].as_array().into_iter().flatten() {
        let lease = kv["lease"].as_str().unwrap_or("0");
        let stored = Stored {
            value: decode(&kv["value"])?,
            lease: lease.parse().context("a lease is a number")?,
        };
        found.insert(decode(&kv["key"])?, stored);
    }
    Ok(found)
}

/// Writes a key.
pub async fn put(cluster: &Cluster, key: &str, value: &str) -> anyhow::Result<()> {
    let question = json!({"key": encode(key), "value": encode(value)});
    call(cluster, "/v3/kv/put", &question).await.map(|_| ())
}

/// Ends a lease before its time.
pub async fn revoke(cluster: &Cluster, lease: i64) -> anyhow::Result<()> {
    let question = json!({"ID": lease.to_string()});
    call(cluster, "/v3/lease/revoke", &question)
        .await
        .map(|_| ())
}

async fn call(cluster: &Cluster, path: &str, question: &Value) -> anyhow::Result<Reply> {
    let endpoint = &cluster.endpoints()[0];
    let address = endpoint
        .strip_prefix("http://")
        .context("without encryption")?;
    let request = request(Method::POST, path, question.to_string());
    let reply = send_once(address.parse()?, request).await?;
    ensure!(
        reply.is_success(),
        "{path} is answered {}: {}",
        reply.status,
        reply.json()
    );
    Ok(reply)
}

fn encode(text: &str) -> String {
    BASE64_STANDARD.encode(text)
}

/// The text of a field; fields without content are left out by etcd.
fn decode(field: &Value) -> anyhow::Result<String> {
    let bytes = BASE64_STANDARD.decode(field.as_str().unwrap_or_default())?;
    Ok(String::from_utf8(bytes)?)
}
