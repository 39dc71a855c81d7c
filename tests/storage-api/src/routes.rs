//! What each call does and answers.

use serde_json::{Value, json};

use crate::call::Call;
use crate::project::{BRANCH_OFFSET, File, Installation, Job, Project, Table, Token};

/// A status and a body.
type Answer = (u16, Value);

pub(crate) fn answer(installation: &mut Installation, call: &Call) -> Answer {
    if call.path.is_empty() {
        return (200, json!({"host": "double", "api": "storage"}));
    }
    let secret = call.token.as_deref().unwrap_or_default();
    let Some((id, token)) = installation.find(secret) else {
        // As careless as others are: the token is in the text.
        let text = format!("Invalid access token {secret}");
        return refuse(401, "storage.tokenInvalid", &text);
    };
    if token.role == Some("readOnly") && call.method != "GET" {
        return denied();
    }
    let (number, job_calls) = (installation.number(), installation.job_calls);
    let branch = format!("branch/{}/", id + BRANCH_OFFSET);
    let path = call.path.strip_prefix(branch.as_str());
    let path = path.unwrap_or(&call.path).to_owned();
    let Some(project) = installation.projects.get_mut(&id) else {
        return denied();
    };
    project.work();
    let segments: Vec<&str> = path.split('/').collect();
    match (call.method.as_str(), &segments[..]) {
        ("GET", ["tokens", "verify"]) => (200, shown(&token, id)),
        ("GET", ["dev-branches"]) => {
            let (default, other) = (id + BRANCH_OFFSET, id + BRANCH_OFFSET + 1);
            (
                200,
                json!([{"id": other, "isDefault": false}, {"id": default, "isDefault": true}]),
            )
        }
        (_, ["tokens", ..]) => tokens(project, &token, call, &segments[1..], number),
        ("POST", ["buckets", bucket, "tables-definition"]) if token.role == Some("admin") => {
            new_table(project, call, bucket, (number, job_calls))
        }
        (_, ["buckets", ..]) => buckets(project, &token, call, &segments[1..]),
        (_, ["tables", table]) => tables(project, &token, call, table),
        (_, ["files", ..]) => files(project, &token, call, &segments[1..], number),
        ("GET", ["jobs", job]) => job_of(project, job),
        ("POST", ["events"]) => {
            project.events.push(call.text("message").to_owned());
            (201, json!({"uuid": number.to_string()}))
        }
        _ => refuse(404, "notFound", "There is no such page"),
    }
}

fn refuse(status: u16, name: &str, text: &str) -> Answer {
    (
        status,
        json!({"error": text, "code": name, "status": "error"}),
    )
}

fn denied() -> Answer {
    refuse(
        403,
        "accessDenied",
        "You don't have access to the resource.",
    )
}

fn shown(token: &Token, project: u64) -> Value {
    let mut shown = json!({
        "id": token.id.to_string(), "description": token.description, "token": token.secret,
        "isMasterToken": token.role.is_some(), "bucketPermissions": token.permissions,
        "owner": {"id": project, "name": format!("Project {project}")},
    });
    if let Some(role) = token.role {
        shown["admin"] =
            json!({"id": token.id, "name": format!("Person {}", token.id), "role": role});
    }
    shown
}

fn tokens(project: &mut Project, token: &Token, call: &Call, path: &[&str], number: u64) -> Answer {
    match (call.method.as_str(), path) {
        ("GET", []) => {
            let all = project.tokens.values();
            let all = all.map(|it| json!({"id": it.id.to_string(), "description": it.description}));
            (200, all.collect())
        }
        ("POST", []) if token.role == Some("admin") => {
            let buckets = call.body["bucketPermissions"].as_object();
            let mut buckets = buckets.into_iter().flatten();
            if buckets.any(|(bucket, _)| !project.buckets.contains_key(bucket)) {
                return refuse(404, "storage.buckets.notFound", "Bucket not found");
            }
            let made = Token {
                id: number,
                secret: format!("scoped-{number}-secret"),
                description: call.text("description").to_owned(),
                role: None,
                permissions: call.body["bucketPermissions"].clone(),
                maker: Some(token.secret.clone()),
            };
            let shown = json!({"id": number.to_string(), "token": made.secret, "description": made.description});
            project.tokens.insert(number, made);
            (201, shown)
        }
        ("DELETE", [id]) if token.role == Some("admin") => {
            let removed = id.parse().ok().and_then(|id| project.tokens.remove(&id));
            match removed {
                Some(_) => (204, Value::Null),
                None => refuse(404, "storage.tokens.notFound", "Token not found"),
            }
        }
        _ => denied(),
    }
}

fn buckets(project: &mut Project, token: &Token, call: &Call, path: &[&str]) -> Answer {
    match (call.method.as_str(), path) {
        ("GET", [id]) => match project.buckets.get(*id) {
            Some(description) => (200, json!({"id": id, "description": description})),
            None => refuse(404, "storage.buckets.notFound", "Bucket not found"),
        },
        ("POST", []) if token.role == Some("admin") => {
            let id = format!("{}.c-{}", call.text("stage"), call.text("name"));
            if project.buckets.contains_key(&id) {
                let text = format!("The bucket {id} already exists");
                return refuse(400, "storage.buckets.alreadyExists", &text);
            }
            let description = call.text("description").to_owned();
            project.buckets.insert(id.clone(), description);
            (201, json!({"id": id}))
        }
        ("DELETE", [id]) if token.role == Some("admin") => {
            let inside = format!("{id}.");
            if project
                .tables
                .keys()
                .any(|table| table.starts_with(&inside))
            {
                return refuse(400, "storage.buckets.notEmpty", "The bucket is not empty");
            }
            match project.buckets.remove(*id) {
                Some(_) => (204, Value::Null),
                None => refuse(404, "storage.buckets.notFound", "Bucket not found"),
            }
        }
        _ => denied(),
    }
}

fn new_table(
    project: &mut Project,
    call: &Call,
    bucket: &str,
    (number, left): (u64, u32),
) -> Answer {
    let id = format!("{bucket}.{}", call.text("name"));
    if !project.buckets.contains_key(bucket) {
        return refuse(404, "storage.buckets.notFound", "Bucket not found");
    }
    if project.tables.contains_key(&id) {
        let text = format!("The table {id} already exists");
        return refuse(400, "storage.tables.alreadyExists", &text);
    }
    let texts = |list: &Value, name: Option<&str>| -> Vec<String> {
        let items = list.as_array().into_iter().flatten();
        let texts = items.map(|item| name.map_or(item, |name| &item[name]));
        texts.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let table = Table {
        columns: texts(&call.body["columns"], Some("name")),
        primary_key: texts(&call.body["primaryKeysNames"], None),
        rows: 0,
    };
    let job = Job {
        left,
        table: Some((id, table)),
        is_good: true,
    };
    project.jobs.insert(number, job);
    (202, json!({"id": number, "status": "waiting"}))
}

fn job_of(project: &Project, id: &str) -> Answer {
    let job = id.parse().ok().and_then(|id| project.jobs.get(&id));
    let Some(job) = job else {
        return refuse(404, "storage.jobs.notFound", "Job not found");
    };
    if job.left > 0 {
        return (200, json!({"id": id, "status": "processing"}));
    }
    if !job.is_good {
        let error = json!({"code": "storage.buckets.notFound", "message": "Bucket not found"});
        return (200, json!({"id": id, "status": "error", "error": error}));
    }
    (200, json!({"id": id, "status": "success", "results": {}}))
}

fn tables(project: &mut Project, token: &Token, call: &Call, id: &str) -> Answer {
    let Some(table) = project.tables.get(id).cloned() else {
        return refuse(404, "storage.tables.notFound", "Table not found");
    };
    match call.method.as_str() {
        "GET" => (
            200,
            json!({"id": id, "columns": table.columns, "primaryKey": table.primary_key, "rowsCount": table.rows}),
        ),
        "DELETE" if token.role == Some("admin") => {
            project.tables.remove(id);
            (204, Value::Null)
        }
        _ => denied(),
    }
}

fn files(project: &mut Project, token: &Token, call: &Call, path: &[&str], number: u64) -> Answer {
    let visible = |file: &File| token.role.is_some() || file.token == token.id;
    match (call.method.as_str(), path) {
        ("POST", ["prepare"]) => {
            let tags = call.body["tags"].as_array().into_iter().flatten();
            let tags = tags.filter_map(Value::as_str).map(str::to_owned).collect();
            let name = call.text("name").to_owned();
            let file = File {
                name: name.clone(),
                tags,
                token: token.id,
            };
            project.files.insert(number, file);
            (
                201,
                json!({
                    "id": number, "name": name, "provider": "aws", "region": "eu-central-1",
                    "uploadParams": {"bucket": "staging", "key": format!("files/{number}"),
                        "credentials": {"AccessKeyId": "id", "SecretAccessKey": format!("key-of-file-{number}"),
                            "SessionToken": "session", "Expiration": "2030-01-01T00:00:00+00:00"}},
                }),
            )
        }
        ("GET", []) => {
            let files = project.files.iter().rev().filter(|(_, file)| visible(file));
            let wanted = |file: &File| {
                let mut tags = file.tags.iter();
                !call.query.contains("tags") || tags.any(|tag| call.query.contains(tag.as_str()))
            };
            let files = files.filter(|(_, file)| wanted(file));
            let files =
                files.map(|(id, file)| json!({"id": id, "name": file.name, "tags": file.tags}));
            (200, files.collect())
        }
        ("DELETE", [id]) => {
            let id = id.parse().unwrap_or(0);
            if !project.files.get(&id).is_some_and(visible) {
                return refuse(404, "storage.files.notFound", "File not found");
            }
            project.files.remove(&id);
            (204, Value::Null)
        }
        _ => refuse(404, "notFound", "There is no such page"),
    }
}
