//! Records through evaluators that are threads of the test: the real one, and one that does on command what processes do at
//! random.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::HeaderMap;
use prometheus::Registry;
use stream_encoding::jsonnet::{Answer, HELLO, Request};

use super::*;
use crate::metrics::Metrics;
use crate::route::PlannedSink;
use crate::testing::{LIMITS, body_sink, helpers, record, source, template_sink};

fn start(helpers: Helpers, limits: Limits) -> (Evaluators, CancellationToken) {
    let metrics = Metrics::register(&Registry::new()).expect("a fresh registry");
    let stop = CancellationToken::new();
    let spawn = |task| drop(tokio::spawn(task));
    let metrics = metrics.templates.clone();
    let evaluators = Evaluators::new(helpers, limits, metrics, Box::new(spawn), stop.clone());
    (evaluators, stop)
}

fn plan(sinks: Vec<PlannedSink>) -> Plan {
    Plan::new(sinks)
}

fn received(body: &str) -> Received {
    Received::new(record(body), HeaderMap::new())
}

async fn evaluate(evaluators: &Evaluators, plan: &Plan, body: &str) -> Evaluated {
    evaluators
        .submit(&source(), plan, &received(body))
        .evaluated()
        .await
}

/// What became of a record in the only mapping of a plan, in a word or two.
fn told(evaluated: &Evaluated, plan: &Plan) -> String {
    let templates = plan.templates().next().expect("a template");
    match evaluated.of(templates.id()).expect("it was asked for") {
        Ok(Ok(values)) => format!("{} bytes", values.len()),
        Ok(Err(refusal)) => refusal.to_string(),
        Err(failure) => format!("{failure:?}"),
    }
}

/// Says hello and then, for each record, what its body asks for: `ok`, `die`, `hang`.
fn scripted(mut socket: UnixStream) {
    let say = |socket: &mut UnixStream, frame: &[u8]| socket.write_all(frame).is_ok();
    let hello_len = u32::try_from(HELLO.len()).expect("short").to_le_bytes();
    say(&mut socket, &[&hello_len, HELLO].concat());
    loop {
        let mut len = [0; 4];
        if socket.read_exact(&mut len).is_err() {
            return;
        }
        let mut message = vec![0; u32::from_le_bytes(len) as usize];
        socket.read_exact(&mut message).expect("a whole frame");
        let answer = match Request::decode(&message).expect("a request") {
            Request::Define { .. } => Answer::Defined,
            Request::Forget { .. } => continue,
            Request::Evaluate { record, .. } => match &record.body[..] {
                b"die" => return,
                b"die once" if DEATHS.fetch_add(1, Ordering::SeqCst) == 0 => return,
                // Until the other end is closed.
                b"hang" => {
                    let _ = socket.read_to_end(&mut Vec::new());
                    return;
                }
                _ => Answer::Value(record.body.to_vec()),
            },
        };
        if !say(&mut socket, &answer.encode()) {
            return;
        }
    }
}

static DEATHS: AtomicUsize = AtomicUsize::new(0);

fn scripted_helpers() -> Helpers {
    Helpers::threads(scripted, HELLO)
}

#[tokio::test]
async fn records_get_the_values_of_every_mapping() {
    let (evaluators, stop) = start(helpers(), LIMITS);
    let plan = plan(vec![
        template_sink("a", 1, "Body('n') + 1"),
        body_sink("b", 1),
        template_sink("c", 1, "std.length(BodyStr()) + 0"),
    ]);
    let pending: Vec<_> = (0..200)
        .map(|n| {
            let body = format!("{{\"n\":{n}}}");
            evaluators.submit(&source(), &plan, &received(&body))
        })
        .collect();
    for (n, pending) in pending.into_iter().enumerate() {
        let evaluated = pending.evaluated().await;
        assert!(evaluated.covers(&plan));
        assert_eq!(evaluated.failure(&plan), None);
        let expected = (n + 1).to_string().len() + 1;
        assert_eq!(evaluated.bytes(), expected, "{n}");
    }
    let refused = evaluate(&evaluators, &plan, "{}").await;
    assert!(told(&refused, &plan).contains("no value at path \"n\""));
    stop.cancel();
}

#[tokio::test]
async fn a_record_that_takes_too_long_is_refused_and_those_behind_it_are_not() {
    let limits = Limits {
        workers: 1,
        time: Duration::from_millis(50),
        ..LIMITS
    };
    let (evaluators, _stop) = start(scripted_helpers(), limits);
    let plan = plan(vec![template_sink("a", 1, "1 + 1")]);
    let bodies = ["ok", "hang", "ok, too", "and this"];
    let pending = bodies.map(|body| evaluators.submit(&source(), &plan, &received(body)));
    let mut outcomes = Vec::new();
    for pending in pending {
        outcomes.push(told(&pending.evaluated().await, &plan));
    }
    assert_eq!(
        outcomes,
        [
            "2 bytes",
            "column \"c\": the template took longer than 50 ms for this record and was stopped",
            "7 bytes",
            "8 bytes"
        ]
    );
}

#[tokio::test]
async fn an_evaluator_that_dies_is_replaced_and_only_the_second_death_is_the_record_s() {
    let limits = Limits {
        workers: 1,
        ..LIMITS
    };
    let (evaluators, _stop) = start(scripted_helpers(), limits);
    let plan = plan(vec![template_sink("a", 1, "1 + 1")]);
    let bodies = ["1", "die once", "22", "die", "333"];
    let pending = bodies.map(|body| evaluators.submit(&source(), &plan, &received(body)));
    let mut outcomes = Vec::new();
    for pending in pending {
        outcomes.push(told(&pending.evaluated().await, &plan));
    }
    assert_eq!(outcomes[0], "1 bytes");
    assert_eq!(outcomes[1], "8 bytes", "evaluated again");
    assert_eq!(outcomes[2], "2 bytes");
    assert!(outcomes[3].contains("needs more memory"), "{outcomes:?}");
    assert_eq!(outcomes[4], "3 bytes");
}

#[tokio::test]
async fn a_mapping_that_goes_on_exceeding_has_to_rest_and_others_go_on() {
    let limits = Limits {
        workers: 1,
        ..LIMITS
    };
    let (evaluators, _stop) = start(scripted_helpers(), limits);
    let hostile = plan(vec![template_sink("a", 1, "1 + 1")]);
    let other = plan(vec![template_sink("b", 1, "2 + 2")]);
    for _ in 0..4 {
        let evaluated = evaluate(&evaluators, &hostile, "die").await;
        assert!(told(&evaluated, &hostile).contains("needs more memory"));
    }
    let rests = evaluate(&evaluators, &hostile, "ok").await;
    assert_eq!(rests.failure(&hostile), Some(Failure::TemplatesResting));
    let goes_on = evaluate(&evaluators, &other, "ok").await;
    assert_eq!(told(&goes_on, &other), "2 bytes");
}

#[tokio::test]
async fn without_evaluators_records_are_told_so() {
    let missing = Helpers::program("/nonexistent".into(), Vec::new(), HELLO);
    let (evaluators, _stop) = start(missing, LIMITS);
    let plan = plan(vec![template_sink("a", 1, "1 + 1")]);
    let evaluated = evaluate(&evaluators, &plan, "ok").await;
    assert_eq!(evaluated.failure(&plan), Some(Failure::TemplatesBusy));
}

#[tokio::test]
async fn templates_that_do_not_compile_refuse_their_records() {
    let (evaluators, _stop) = start(helpers(), LIMITS);
    let plan = plan(vec![template_sink("a", 1, "Invalid() + 1")]);
    let evaluated = evaluate(&evaluators, &plan, "{}").await;
    let told = told(&evaluated, &plan);
    assert!(told.contains("1:1-8 undefined local: Invalid"), "{told}");
}

#[tokio::test]
async fn what_is_known_is_not_evaluated_again() {
    let (evaluators, _stop) = start(scripted_helpers(), LIMITS);
    let plan = plan(vec![template_sink("a", 1, "1 + 1")]);
    let mut received = received("ok");
    received.evaluated = Some(evaluate(&evaluators, &plan, "longer").await);
    assert!(!received.needs_evaluation_for(&plan));
    let again = evaluators
        .submit(&source(), &plan, &received)
        .evaluated()
        .await;
    assert_eq!(told(&again, &plan), "6 bytes");
}

/// One line per mapping, a few records at a time, and the one that has used least goes first.
#[test]
fn lines_share_by_time() {
    let templates = |name| {
        let sink = template_sink(name, 1, "1 + 1");
        Arc::clone(sink.mapping.templates().expect("a template"))
    };
    let (slow, quick) = (templates("slow"), templates("quick"));
    let mut lines = Lines::default();
    let mut answers = Vec::new();
    let mut push = |lines: &mut Lines, of: &Arc<Templates>| {
        let (sender, answer) = oneshot::channel();
        answers.push(answer);
        let job = Job::new(Arc::clone(of), record("x"), sender);
        let pushed = lines.push(job, || "sink".to_owned(), Instant::now());
        pushed.expect("it does not rest");
    };
    for _ in 0..100 {
        push(&mut lines, &slow);
    }
    let taken = |lines: &mut Lines, spent: u64| {
        let jobs = lines.take().expect("jobs wait");
        let id = jobs[0].templates.id();
        assert!(jobs.iter().all(|job| job.templates.id() == id));
        lines.done(id, Duration::from_millis(spent));
        (id == slow.id(), jobs.len())
    };
    assert_eq!(taken(&mut lines, 1_000), (true, 32));
    for _ in 0..40 {
        push(&mut lines, &quick);
    }
    // The new line does not owe for the time before it came, and has none saved up either.
    assert_eq!(taken(&mut lines, 10), (false, 32));
    assert_eq!(taken(&mut lines, 10), (false, 8));
    assert_eq!(taken(&mut lines, 1_000), (true, 32));
    push(&mut lines, &quick);
    assert_eq!(taken(&mut lines, 10), (false, 1));
    assert_eq!(taken(&mut lines, 10), (true, 32));
    assert_eq!(taken(&mut lines, 10), (true, 4));
    assert!(lines.take().is_none());
    assert_eq!(lines.waiting_gauge(), 0);
}
