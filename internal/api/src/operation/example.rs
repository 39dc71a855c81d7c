//! Examples for the description. The tests hold them against the schemas, and send those of requests.

use serde_json::{Value, json};

const AT: &str = "2026-01-01T08:05:51.271Z";

pub(crate) fn new_source() -> Value {
    json!({"type": "http", "name": "Web Shop", "description": "Orders of the shop."})
}

pub(crate) fn source_change() -> Value {
    json!({"description": "Orders and returns of the shop.", "changeDescription": "Returns came."})
}

pub(crate) fn source() -> Value {
    json!({
        "projectId": 1, "branchId": 1, "sourceId": "web-shop", "type": "http", "name": "Web Shop",
        "description": "Orders of the shop.",
        "http": {"url": "http://localhost:7000/stream/1/web-shop/<48 letters and digits>"},
        "version": version(), "created": {"at": AT, "by": user()},
    })
}

pub(crate) fn new_sink() -> Value {
    json!({
        "type": "table", "name": "Orders",
        "table": {"type": "sqlite", "tableId": "orders", "mapping": {"columns": [
            {"type": "uuid", "name": "id"},
            {"type": "datetime", "name": "received"},
            {"type": "path", "name": "order_id", "path": "order.id", "rawString": true, "primaryKey": true},
            {"type": "path", "name": "amount", "path": "order.amount", "dataType": "float"},
            {"type": "template", "name": "agent", "rawString": true,
             "template": {"language": "jsonnet", "content": "Header('User-Agent', null)"}},
        ]}},
    })
}

pub(crate) fn sink_change() -> Value {
    json!({"name": "Orders of 2026", "table": {"mapping": {"columns": [{"type": "body", "name": "body"}]}}})
}

pub(crate) fn sink() -> Value {
    json!({
        "projectId": 1, "branchId": 1, "sourceId": "web-shop", "sinkId": "orders", "type": "table",
        "name": "Orders", "description": "", "table": new_sink()["table"],
        "version": version(), "created": {"at": AT, "by": user()},
    })
}

pub(crate) fn task() -> Value {
    let id = "api.create.source/1/web-shop/2026-01-01T08:05:51.271Z_1xABf";
    json!({
        "taskId": id, "type": "api.create.source", "url": format!("http://localhost:8000/v1/tasks/{id}"),
        "status": "processing", "isFinished": false, "createdAt": AT,
    })
}

pub(crate) fn finished_task() -> Value {
    let mut task = task();
    let done = json!({
        "status": "success", "isFinished": true, "finishedAt": "2026-01-01T08:05:51.279Z", "duration": 8,
        "result": "The source was created.",
        "outputs": {
            "url": "http://localhost:8000/v1/branches/1/sources/web-shop",
            "projectId": 1, "branchId": 1, "sourceId": "web-shop",
        },
    });
    if let (Some(task), Value::Object(done)) = (task.as_object_mut(), done) {
        task.extend(done);
    }
    task
}

pub(crate) fn version() -> Value {
    json!({
        "number": 1, "hash": "6b3211a1b9674111", "description": "New source.", "at": AT, "by": user(),
    })
}

fn user() -> Value {
    json!({"type": "user", "tokenId": "f5403c4c98ac", "tokenDesc": "admin token of the first start"})
}

pub(crate) fn settings_change() -> Value {
    json!({
        "changeDescription": "Faster.",
        "settings": [{"key": "storage.level.target.import.trigger.interval", "value": "5s"}],
    })
}

pub(crate) fn settings() -> Value {
    json!({"settings": [{
        "key": "storage.level.target.import.trigger.interval", "type": "string",
        "description": "The longest time until the rows of a file are imported.",
        "value": "5s", "defaultValue": "10s", "overwritten": true, "protected": false,
        "validation": "1s to 24h",
    }]})
}

pub(crate) fn statistics() -> Value {
    let figures = json!({
        "firstRecordAt": AT, "lastRecordAt": AT, "recordsCount": 7, "compressedSize": 812,
        "uncompressedSize": 2210,
    });
    json!({"total": figures, "levels": {"target": figures}})
}

pub(crate) fn diagnosis() -> Value {
    json!({"findings": [{
        "code": "componentMissing", "subject": "component storage-coordinator",
        "problem": "no storage-coordinator is running: slices only grow and nothing is imported",
        "advice": "start one",
    }]})
}
