//! The schemas of a document: each named type once, referred to from everywhere else.

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use crate::operation::SchemaOf;

/// Where named schemas are in the document.
const PLACE: &str = "#/components/schemas/";

/// Collects the schemas of a document.
pub(super) struct Schemas(SchemaGenerator);

impl Schemas {
    pub(super) fn new() -> Self {
        let settings = SchemaSettings::draft2020_12()
            .for_serialize()
            .with(|settings| {
                settings.meta_schema = None;
                "/components/schemas".clone_into(settings.definitions_path.to_mut());
            });
        Self(settings.into_generator())
    }

    /// The schema of a type: a reference, when the type has a name.
    pub(super) fn of(&mut self, schema: SchemaOf) -> Value {
        let mut schema = schema(&mut self.0).to_value();
        tidy(&mut schema);
        schema
    }

    /// All named schemas, sorted by name.
    pub(super) fn finish(mut self) -> Value {
        let mut named: Vec<(String, Value)> = self.0.take_definitions(true).into_iter().collect();
        for (name, schema) in &mut named {
            *name = without_suffix(name).to_owned();
            tidy(schema);
        }
        named.sort_by(|a, b| a.0.cmp(&b.0));
        Value::Object(named.into_iter().collect())
    }
}

/// The noun of a view: clients need not know that there is anything behind it.
fn without_suffix(name: &str) -> &str {
    name.strip_suffix("View").unwrap_or(name)
}

/// Brings a generated schema into the form of the document.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if let Some(Value::String(reference)) = fields.get_mut("$ref") {
                let name = reference.rsplit('/').next().unwrap_or_default();
                *reference = format!("{PLACE}{}", without_suffix(name));
            }
            never_null(fields);
            fields.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// What may be left out of an answer is left out instead of being `null`. An object that refuses unknown fields is one of a
/// request, where `null` is accepted.
fn never_null(fields: &mut Map<String, Value>) {
    if fields.contains_key("additionalProperties") {
        return;
    }
    let required: Vec<String> = match fields.get("required") {
        Some(Value::Array(names)) => {
            let names = names.iter().filter_map(Value::as_str);
            names.map(str::to_owned).collect()
        }
        _ => Vec::new(),
    };
    let Some(Value::Object(properties)) = fields.get_mut("properties") else {
        return;
    };
    for (name, property) in properties {
        if !required.contains(name) {
            without_null(property);
        }
    }
}

fn without_null(property: &mut Value) {
    if let Some(Value::Array(types)) = property.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            property["type"] = only.clone();
        }
    }
    let Some(Value::Array(any)) = property.get_mut("anyOf") else {
        return;
    };
    any.retain(|schema| schema.get("type").is_none_or(|name| name != "null"));
    let [Value::Object(only)] = any.as_mut_slice() else {
        return;
    };
    let only = std::mem::take(only);
    if let Some(property) = property.as_object_mut() {
        property.shift_remove("anyOf");
        property.extend(only);
    }
}
