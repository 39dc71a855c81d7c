//! The shapes of bodies.

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::Json;
use super::text::{filler, name, number, phrase};

/// A body. Objects have the member `id`.
pub(super) fn value(rng: &mut StdRng, id: &str) -> Json {
    let mut value = match rng.random_range(0..100) {
        0..5 => return plain(rng),
        5..40 => forge(rng, id),
        40..72 => payment(rng, id),
        _ => chat(rng, id),
    };
    if let (Json::Object(members), Some(bytes)) = (&mut value, extra_bytes(rng)) {
        // Somewhere in the middle, so that wanted values stand before and after it.
        let place = rng.random_range(0..=members.len());
        members.insert(
            place,
            ("attachment".to_owned(), Json::Text(filler(rng, bytes))),
        );
    }
    value
}

/// Most events are small, some have a diff or a document inside.
fn extra_bytes(rng: &mut StdRng) -> Option<usize> {
    match rng.random_range(0..1_000) {
        0 => Some(rng.random_range(400_000..860_000)),
        1..8 => Some(rng.random_range(40_000..200_000)),
        8..80 => Some(rng.random_range(4_000..25_000)),
        _ => None,
    }
}

/// What people send to see whether it works.
fn plain(rng: &mut StdRng) -> Json {
    match rng.random_range(0..12) {
        0..3 => Json::number(1),
        3 => Json::Null,
        4 => Json::Bool(rng.random_bool(0.5)),
        5 => Json::text(""),
        6 => Json::Text(phrase(rng, 6)),
        7 => Json::Array(vec![]),
        8 => Json::Object(vec![]),
        9 => Json::Array((0..rng.random_range(1..9)).map(|_| number(rng)).collect()),
        10 => nested(rng.random_range(10..60)),
        _ => number(rng),
    }
}

/// An array in an array in an array.
fn nested(depth: usize) -> Json {
    (0..depth).fold(Json::Null, |inner, _| Json::Array(vec![inner]))
}

fn actor(rng: &mut StdRng) -> Json {
    let login = Json::Text(name(rng));
    let emails = (0..rng.random_range(0..3)).map(|n| Json::Text(format!("user{n}@example.com")));
    Json::object([
        ("login", Json::text("octo")),
        ("name", login),
        ("id", number(rng)),
        ("emails", Json::Array(emails.collect())),
        ("site_admin", Json::Bool(rng.random_bool(0.1))),
        (
            "avatar",
            if rng.random_bool(0.3) {
                Json::Null
            } else {
                Json::text("https://example.com/a.png")
            },
        ),
    ])
}

fn repository(rng: &mut StdRng) -> Json {
    Json::object([
        ("id", number(rng)),
        ("full_name", Json::Text(format!("team/{}", name(rng)))),
        (
            "description",
            if rng.random_bool(0.2) {
                Json::Null
            } else {
                Json::Text(phrase(rng, 8))
            },
        ),
        ("topics", texts(rng, 4)),
        ("stars", number(rng)),
        ("license", Json::Object(vec![])),
    ])
}

fn texts(rng: &mut StdRng, most: usize) -> Json {
    Json::Array(
        (0..rng.random_range(0..=most))
            .map(|_| Json::Text(name(rng)))
            .collect(),
    )
}

fn forge(rng: &mut StdRng, id: &str) -> Json {
    match rng.random_range(0..3) {
        0 => {
            let commits = (0..rng.random_range(0..6))
                .map(|n| commit(rng, n))
                .collect();
            Json::object([
                ("id", Json::text(id)),
                ("type", Json::text("push")),
                ("ref", Json::Text(format!("refs/heads/{}", name(rng)))),
                ("forced", Json::Bool(false)),
                ("commits", Json::Array(commits)),
                ("repository", repository(rng)),
                ("actor", actor(rng)),
                ("tags", texts(rng, 3)),
            ])
        }
        1 => Json::object([
            ("actor", actor(rng)),
            ("type", Json::text("pull_request")),
            (
                "action",
                Json::text(
                    *["opened", "synchronize", "closed"]
                        .choose(rng)
                        .expect("not empty"),
                ),
            ),
            ("number", number(rng)),
            ("pull_request", change(rng)),
            ("repository", repository(rng)),
            ("id", Json::text(id)),
        ]),
        _ => Json::object([
            ("id", Json::text(id)),
            (
                "type",
                Json::text(*["issues", "issue_comment"].choose(rng).expect("not empty")),
            ),
            ("issue", change(rng)),
            ("tags", texts(rng, 5)),
            ("repository", repository(rng)),
            (
                "actor",
                if rng.random_ratio(1, 10) {
                    Json::Null
                } else {
                    actor(rng)
                },
            ),
        ]),
    }
}

fn commit(rng: &mut StdRng, number_in_push: usize) -> Json {
    Json::object([
        (
            "id",
            Json::Text(format!("{:016x}{number_in_push:024x}", rng.random::<u64>())),
        ),
        ("message", Json::Text(phrase(rng, 20))),
        (
            "author",
            Json::object([
                ("name", Json::Text(name(rng))),
                ("email", Json::text("dev@example.com")),
            ]),
        ),
        ("added", texts(rng, 3)),
        ("removed", Json::Array(vec![])),
    ])
}

fn change(rng: &mut StdRng) -> Json {
    Json::object([
        ("title", Json::Text(phrase(rng, 8))),
        (
            "body",
            if rng.random_bool(0.2) {
                Json::Null
            } else {
                Json::Text(phrase(rng, 60))
            },
        ),
        (
            "labels",
            Json::Array(
                (0..rng.random_range(0..3))
                    .map(|_| Json::object([("name", Json::Text(name(rng)))]))
                    .collect(),
            ),
        ),
        ("milestone", Json::Null),
        ("comments", number(rng)),
    ])
}

fn payment(rng: &mut StdRng, id: &str) -> Json {
    let kind = *[
        "charge.succeeded",
        "charge.refunded",
        "invoice.paid",
        "payout.failed",
    ]
    .choose(rng)
    .expect("not empty");
    let lines: Vec<Json> = (0..rng.random_range(0..5)).map(|_| line(rng)).collect();
    let object = Json::object([
        ("object", Json::text(kind.split('.').next().unwrap_or(kind))),
        ("amount", number(rng)),
        (
            "currency",
            Json::text(*["eur", "czk", "jpy"].choose(rng).expect("not empty")),
        ),
        (
            "customer",
            if rng.random_bool(0.3) {
                Json::Null
            } else {
                Json::Text(name(rng))
            },
        ),
        ("lines", Json::Array(lines)),
        ("metadata", metadata(rng)),
        ("refunded", Json::Bool(kind.ends_with("refunded"))),
    ]);
    Json::object([
        ("id", Json::text(id)),
        ("object", Json::text("event")),
        ("created", number(rng)),
        ("livemode", Json::Bool(true)),
        ("type", Json::text(kind)),
        (
            "data",
            Json::object([
                ("object", object),
                ("previous_attributes", Json::Object(vec![])),
            ]),
        ),
        ("tags", texts(rng, 2)),
    ])
}

fn line(rng: &mut StdRng) -> Json {
    Json::object([
        ("description", Json::Text(phrase(rng, 6))),
        ("quantity", number(rng)),
        (
            "price",
            Json::object([("unit", number(rng)), ("tax", Json::number("0.210"))]),
        ),
    ])
}

/// Members with names that the sender's customers make up.
fn metadata(rng: &mut StdRng) -> Json {
    let members = (0..rng.random_range(0..5)).map(|n| {
        let key = format!("{n} {}", name(rng));
        (key, Json::Text(phrase(rng, 4)))
    });
    Json::Object(members.collect())
}

fn chat(rng: &mut StdRng, id: &str) -> Json {
    let kind = *["message", "reaction_added", "app_mention"]
        .choose(rng)
        .expect("not empty");
    let elements = (0..rng.random_range(0..4)).map(|_| {
        Json::object([
            ("type", Json::text("text")),
            ("text", Json::Text(phrase(rng, 15))),
        ])
    });
    let blocks = Json::Array(vec![Json::object([
        ("type", Json::text("rich_text")),
        ("elements", Json::Array(elements.collect())),
    ])]);
    let event = Json::object([
        ("type", Json::text(kind)),
        ("user", Json::text("U02")),
        ("text", Json::Text(phrase(rng, 40))),
        (
            "ts",
            Json::Text(format!(
                "{}.{:06}",
                rng.random::<u32>(),
                rng.random_range(0..1_000_000)
            )),
        ),
        ("blocks", blocks),
    ]);
    Json::object([
        ("token", Json::text("")),
        ("team_id", Json::text("T01")),
        ("type", Json::text(format!("event_callback.{kind}"))),
        ("event", event),
        ("id", Json::text(id)),
        ("event_time", number(rng)),
        ("actor", actor(rng)),
    ])
}
