//! A Storage API in memory, for tests.
//!
//! It has what the service uses of it, with the rules that matter there: tokens with permissions, a bucket before its tables,
//! tables that are made by jobs, identifiers that are never used twice. What was called is remembered, and a test says which
//! calls fail and how: refused, answered with an error of the server, cut off before they had an effect or after.

#![allow(
    clippy::disallowed_methods,
    reason = "ends with the runtime of its test"
)]

mod call;
mod fault;
mod project;
mod routes;
mod trap;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use call::Call;
use project::Installation;

pub use fault::Fault;
pub use project::{BRANCH_OFFSET, Holdings, Tokens};
pub use trap::Trap;

/// A Storage API. It is gone when this is dropped.
#[derive(Debug)]
pub struct StorageApi {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    server: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    installation: Installation,
    faults: Vec<fault::Planned>,
    traps: trap::Traps,
    /// `GET tokens/verify` and the like, in order.
    calls: Vec<String>,
}

impl Drop for StorageApi {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl StorageApi {
    /// Starts one on a free port.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn start() -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self::start_at(any).await
    }

    /// Starts one at an address, as when it comes back.
    ///
    /// # Panics
    /// When the address is taken.
    pub async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::<Mutex<Shared>>::default();
        let server = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self {
            address,
            shared,
            server,
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// For `storageApiHost`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Adds a project. Its default branch is its number plus [`BRANCH_OFFSET`].
    #[must_use]
    pub fn add_project(&self, id: u64) -> Tokens {
        self.shared.lock().installation.add_project(id)
    }

    /// Forgets a token, as when a person deletes it.
    pub fn forget_token(&self, secret: &str) {
        self.shared.lock().installation.forget_token(secret);
    }

    /// Adds a table that somebody else has made.
    pub fn add_table(&self, project: u64, table: &str, columns: &[&str]) {
        self.shared
            .lock()
            .installation
            .add_table(project, table, columns);
    }

    /// Lets the next `times` calls of a method to a path that contains `path` fail.
    pub fn fail(&self, method: &str, path: &str, fault: Fault, times: usize) {
        let planned = fault::Planned::new(method, path, fault, times);
        self.shared.lock().faults.push(planned);
    }

    /// Adds one more person with the role `admin` to a project. Answers the token.
    #[must_use]
    pub fn add_admin(&self, project: u64) -> String {
        self.shared.lock().installation.add_admin(project)
    }

    /// Lets tables be made only after so many further calls to their project. From now on; 2 until then.
    pub fn make_tables_after(&self, calls: u32) {
        self.shared.lock().installation.job_calls = calls;
    }

    /// Lets something happen to the call number `at`, from 1, that is made with the token of a person or one that they made.
    pub fn set_trap(&self, person: &str, at: usize, trap: Trap) {
        self.shared.lock().traps.set(person, at, trap);
    }

    /// Whether there were so many calls since the trap was set.
    #[must_use]
    pub fn is_sprung(&self, person: &str) -> bool {
        self.shared.lock().traps.is_sprung(person)
    }

    /// Takes the trap away.
    pub fn remove_trap(&self, person: &str) {
        self.shared.lock().traps.remove(person);
    }

    /// Nothing fails any more.
    pub fn heal(&self) {
        self.shared.lock().faults.clear();
    }

    /// How often a method was called on paths that contain `path`.
    #[must_use]
    pub fn calls(&self, method: &str, path: &str) -> usize {
        let beginning = format!("{method} ");
        let shared = self.shared.lock();
        let calls = shared.calls.iter();
        calls
            .filter(|call| call.starts_with(&beginning) && call.contains(path))
            .count()
    }

    /// What a project has.
    #[must_use]
    pub fn holdings(&self, project: u64) -> Holdings {
        self.shared.lock().installation.holdings(project)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Mutex<Shared>>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            return;
        };
        tokio::spawn(serve(stream, Arc::clone(&shared)));
    }
}

async fn serve(stream: TcpStream, shared: Arc<Mutex<Shared>>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let shared = Arc::clone(&shared);
        async move {
            match answer(request, &shared).await {
                Some(answer) => Ok::<_, CutOff>(answer),
                None => Err(CutOff),
            }
        }
    });
    // A connection that breaks is the client's to notice.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// Ends a connection without an answer.
#[derive(Debug)]
struct CutOff;

impl std::fmt::Display for CutOff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cut off")
    }
}

impl std::error::Error for CutOff {}

async fn answer(
    request: Request<Incoming>,
    shared: &Mutex<Shared>,
) -> Option<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.ok()?.to_bytes();
    let call = Call::read(&head, &body);
    match decide(shared, &call) {
        Outcome::Answered(status, value) => Some(respond(status, &value)),
        Outcome::Cut => None,
        Outcome::Held => std::future::pending().await,
    }
}

/// What becomes of a call.
enum Outcome {
    Answered(u16, Value),
    Cut,
    /// Until its client is gone.
    Held,
}

fn decide(shared: &Mutex<Shared>, call: &Call) -> Outcome {
    let mut shared = shared.lock();
    let shared = &mut *shared;
    shared.calls.push(format!("{} {}", call.method, call.path));
    let mut fault = fault::next(&mut shared.faults, call);
    let person = shared.installation.person_of(call);
    match person.and_then(|person| shared.traps.spring(&person, call)) {
        Some(Trap::HoldBefore) => return Outcome::Held,
        Some(Trap::HoldAfter) => {
            routes::answer(&mut shared.installation, call);
            return Outcome::Held;
        }
        Some(Trap::Once(failure) | Trap::FromThen(failure)) => fault = Some(failure),
        None => {}
    }
    let (status, value) = match fault {
        Some(Fault::CutBefore) => return Outcome::Cut,
        Some(Fault::Status(status)) => (status, json!({"error": "not now", "code": "internal"})),
        Some(Fault::Refuse(status, name)) => (
            status,
            json!({"error": format!("Refused for the test: {name}"), "code": name, "exceptionId": "double-1"}),
        ),
        Some(Fault::CutAfter) => {
            routes::answer(&mut shared.installation, call);
            return Outcome::Cut;
        }
        None => routes::answer(&mut shared.installation, call),
    };
    Outcome::Answered(status, value)
}

fn respond(status: u16, value: &Value) -> Response<Full<Bytes>> {
    let body = match value {
        Value::Null => Bytes::new(),
        value => Bytes::from(value.to_string()),
    };
    let response = Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(Full::new(body));
    response.expect("a status and a body are a response")
}
