//! The configuration API with many definitions: creates them through the API itself, then reads pages.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request};
use serde_json::{Value, json};
use stream_tests::client::{Api, Connection, PATIENCE, Reply, request, sink};
use stream_tests::scratch::Scratch;
use stream_tests::service::Service;
use stream_tests::setup::Setup;
use tokio::task::JoinSet;

use crate::args::Args;
use crate::histogram::Histogram;
use crate::machine::{self, CpuPressure};

const SOURCES: &str = "/v1/branches/default/sources";
/// The pause between two looks at a task.
const POLL: Duration = Duration::from_millis(2);
const MIB: f64 = 1_048_576.0;

/// What to measure.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Sources of the branch.
    sources: u64,
    /// Sinks of each source.
    sinks: u64,
    /// Clients that create sinks, each in a source of its own.
    clients: u64,
    /// Requests of each kind.
    reads: u64,
}

impl Options {
    /// Takes them from the command line.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn read(mut args: Args) -> anyhow::Result<Self> {
        let options = Self {
            sources: args.number("--sources", 100, 1)?,
            sinks: args.number("--sinks", 100, 1)?,
            clients: args.number("--clients", 8, 1)?,
            reads: args.number("--reads", 1_000, 1)?,
        };
        args.finish()?;
        let most = stream_model::definition::MAX_CHILDREN as u64;
        ensure!(
            options.sources.max(options.sinks) <= most,
            "a branch has room for {most} sources, a source for {most} sinks"
        );
        Ok(options)
    }
}

/// Measures everything and prints a table.
///
/// # Errors
/// When something is refused.
pub fn run(options: Options) -> anyhow::Result<()> {
    let scratch = Scratch::new()?;
    let pressure = CpuPressure::begin();
    let runtime = crate::runtime()?;
    let lines = runtime.block_on(measure(options, &Setup::new(scratch.path())?))?;
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let pressure = crate::report::percent(pressure.share());
    println!(
        "{cpus} CPUs, client on the same machine, embedded state store, all components in one process, CPU pressure {pressure}; \
         {} sources with {} sinks each.\n",
        options.sources, options.sinks
    );
    println!("| | requests | p50 | p99 | most |\n|---|---|---|---|---|");
    for line in lines {
        println!("{line}");
    }
    Ok(())
}

async fn measure(options: Options, setup: &Setup) -> anyhow::Result<Vec<String>> {
    let mut service = Service::start(setup.clone()).await?;
    let api = Arc::new(service.api()?);
    let empty = machine::anonymous_memory(service.pid())?;
    let begun = Instant::now();
    let created = create(&api, options).await?;
    let took = begun.elapsed();
    let mut lines = vec![
        row("POST of a sink, until 202", &created.accepted),
        row("POST of a sink, until its task has ended", &created.done),
        row("of these, the last tenth of each source", &created.last),
    ];
    lines.append(&mut read(&api, options).await?);
    let full = machine::anonymous_memory(service.pid())?;
    lines.push(format!(
        "\n{} sinks were created in {:.0} s by {} clients. Anonymous memory: {:.0} MiB empty, {:.0} MiB now.",
        created.done.len(),
        took.as_secs_f64(),
        options.clients,
        empty as f64 / MIB,
        full as f64 / MIB
    ));
    service.stop().await?;
    Ok(lines)
}

/// Latencies of creations.
#[derive(Default)]
struct Created {
    accepted: Vec<Duration>,
    done: Vec<Duration>,
    /// Those of the last sinks of each source, where a cost that grows with their number would show.
    last: Vec<Duration>,
}

async fn create(api: &Arc<Api>, options: Options) -> anyhow::Result<Created> {
    let (mut clients, mut created) = (JoinSet::new(), Created::default());
    let mut sources = 0..options.sources;
    loop {
        while (clients.len() as u64) < options.clients
            && let Some(number) = sources.next()
        {
            clients.spawn(create_source(Arc::clone(api), number, options.sinks));
        }
        let Some(ended) = clients.join_next().await else {
            return Ok(created);
        };
        let of_source: Created = ended??;
        created.accepted.extend(of_source.accepted);
        created.done.extend(of_source.done);
        created.last.extend(of_source.last);
    }
}

async fn create_source(api: Arc<Api>, number: u64, sinks: u64) -> anyhow::Result<Created> {
    let source = api.create_source(&format!("source-{number:03}")).await?;
    let path = format!("{SOURCES}/{}/sinks", source.id);
    let mut connection = Connection::open(api.address).await?;
    let mut created = Created::default();
    for number in 0..sinks {
        let name = format!("{}-{number:03}", source.id);
        let columns = [
            json!({"type": "uuid", "name": "id"}),
            json!({"type": "body", "name": "body"}),
        ];
        let begun = Instant::now();
        let body = sink(&name, &columns).to_string();
        let reply = call(&mut connection, &api, Method::POST, &path, body).await?;
        created.accepted.push(begun.elapsed());
        ensure!(reply.status == 202, "{path}: {}", reply.message());
        ended(&mut connection, &api, reply.json()).await?;
        created.done.push(begun.elapsed());
        if number * 10 >= sinks * 9 {
            created.last.push(begun.elapsed());
        }
    }
    Ok(created)
}

async fn ended(connection: &mut Connection, api: &Api, task: Value) -> anyhow::Result<()> {
    let id = task["taskId"].as_str().context("the task has no id")?;
    let path = format!("/v1/tasks/{id}");
    let begun = Instant::now();
    loop {
        let task = call(connection, api, Method::GET, &path, String::new()).await?;
        let task = task.json();
        if task["isFinished"] == true {
            ensure!(task["status"] == "success", "{task}");
            return Ok(());
        }
        ensure!(begun.elapsed() < PATIENCE, "task {id} does not end");
        tokio::time::sleep(POLL).await;
    }
}

async fn call(
    connection: &mut Connection,
    api: &Api,
    method: Method,
    path: &str,
    body: String,
) -> anyhow::Result<Reply> {
    let mut request: Request<Full<Bytes>> = request(method, path, body);
    let token = api.token.as_deref().unwrap_or_default();
    let headers = request.headers_mut();
    headers.insert("x-storageapi-token", token.parse()?);
    headers.insert(CONTENT_TYPE, "application/json".parse()?);
    Ok(connection.send(request).await?)
}

async fn read(api: &Api, options: Options) -> anyhow::Result<Vec<String>> {
    let mut connection = Connection::open(api.address).await?;
    let mut lines = Vec::new();
    let middle = options.sinks / 2;
    let source = format!("{SOURCES}/source-000");
    for (name, path) in [
        ("a sink", format!("{source}/sinks/source-000-000")),
        (
            "page of all sinks of a source",
            format!("{source}/sinks?limit=100"),
        ),
        (
            "page of 10 sinks in the middle",
            format!("{source}/sinks?limit=10&afterId=source-000-{middle:03}"),
        ),
        ("page of all sources", format!("{SOURCES}?limit=100")),
        (
            "statistics of a sink",
            format!("{source}/sinks/source-000-000/statistics/total"),
        ),
        (
            "aggregation of 10 sources with their sinks",
            "/v1/branches/default/aggregation/sources?limit=10".to_owned(),
        ),
        ("status", "/v1/status".to_owned()),
    ] {
        let mut latencies = Vec::new();
        for _ in 0..options.reads {
            let begun = Instant::now();
            let reply = call(&mut connection, api, Method::GET, &path, String::new()).await?;
            latencies.push(begun.elapsed());
            ensure!(reply.status == 200, "{path}: {}", reply.message());
        }
        lines.push(row(&format!("GET of {name}"), &latencies));
    }
    Ok(lines)
}

fn row(name: &str, latencies: &[Duration]) -> String {
    let mut histogram = Histogram::new();
    for latency in latencies {
        histogram.record(*latency);
    }
    let [half, most] = [500, 990].map(|it| crate::report::millis(histogram.per_mille(it)));
    let worst = crate::report::millis(histogram.max());
    format!(
        "| {name} | {} | {half} | {most} | {worst} |",
        latencies.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_named() {
        let read = |text: &str| {
            let args = Args::parse(text.split_whitespace().map(str::to_owned));
            Options::read(args.expect("flags"))
        };
        let message = |text: &str| read(text).expect_err("a mistake").to_string();
        assert!(message("--sources 101").contains("100 sources"));
        assert!(message("--sinks 101").contains("100 sinks"));
        assert!(message("--reeds 1").contains("--reeds"));
        assert_eq!(read("--clients 3").expect("valid").clients, 3);
    }
}
