//! The JSON schema of the whole of mosbuild.yaml, for editors and for checking the examples.
//! Puts the rules' schemas together; knows no rule by name.

use serde_json::{Map, Value as Json, json};

use super::executors;
use super::facts::RuleSchema;
use super::shape::QUOTED;

/// JSON schema (draft 2020-12) of mosbuild.yaml with these rules.
pub fn document(schemas: &[RuleSchema]) -> Json {
    let mut defs = Map::new();
    let mut choices = Vec::new();
    for rule in schemas {
        let mut schema = rule.schema.clone();
        // Each rule's own definitions move to the top under its name, so that two rules may differ in one.
        let own = schema.as_object_mut().and_then(|object| object.remove("$defs"));
        let prefix = format!("{}.", rule.name);
        if let Some(Json::Object(own)) = own {
            for (name, mut def) in own {
                rename_refs(&mut def, &prefix);
                loosen(&mut def);
                defs.insert(format!("{prefix}{name}"), def);
            }
        }
        rename_refs(&mut schema, &prefix);
        loosen(&mut schema);
        if let Some(object) = schema.as_object_mut() {
            object.remove("$schema");
            object.remove("title");
            let properties = object.entry("properties").or_insert_with(|| json!({}));
            if let Some(properties) = properties.as_object_mut() {
                properties.insert("rule".into(), json!({"const": rule.name}));
            }
            let required = object.entry("required").or_insert_with(|| json!([]));
            if let Some(required) = required.as_array_mut() {
                required.insert(0, json!("rule"));
            }
        }
        choices.push(json!({
            "if": {"required": ["rule"], "properties": {"rule": {"const": rule.name}}},
            "then": {"$ref": format!("#/$defs/rule.{}", rule.name)},
        }));
        defs.insert(format!("rule.{}", rule.name), schema);
    }
    let names: Vec<&str> = schemas.iter().map(|rule| rule.name.as_str()).collect();
    let text = json!({"type": ["string", "number", "boolean"]});
    defs.insert("text".into(), text.clone());
    let text = json!({"$ref": "#/$defs/text"});
    let texts = json!({"anyOf": [text, {"type": "array", "items": text}]});
    let vars = json!({"type": "object", "additionalProperties": text,
        "description": "Text put for ${name} in any string but scripts"});
    // What stands in a profile is part of a target: its fields are checked when it is laid over one.
    let parts = json!({"type": "object", "additionalProperties": {"type": "object"}});
    let profile = json!({"type": "object", "additionalProperties": false,
        "properties": {"vars": vars, "targets": parts}});
    let mirror = json!({"type": "object", "additionalProperties": false, "required": ["from", "to"],
        "properties": {"from": text, "to": texts}});
    let mut container = executors::container_schema();
    loosen(&mut container);
    // Chosen by the rule's name: an editor then says what is wrong with that rule, not "none of these".
    let target = json!({"type": "object", "required": ["rule"],
        "properties": {"rule": {"enum": names}}, "allOf": choices});
    let optional = |schema: Json| json!({"anyOf": [schema, {"type": "null"}]});
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mosbuild.yaml",
        "description": "Declaration of everything that goes into an image",
        "type": "object",
        "additionalProperties": false,
        "required": ["mosbuild", "targets"],
        "properties": {
            "mosbuild": {"const": 1, "description": "Version of this schema"},
            "project": text,
            "default": optional(texts),
            "vars": optional(vars),
            "profiles": optional(json!({"type": "object", "additionalProperties": profile})),
            "mirrors": optional(json!({"type": "array", "items": mirror})),
            "executor": optional(executors::schema()),
            "container": optional(container),
            "targets": {"type": "object", "additionalProperties": target},
            "dist": optional(json!({"type": "object", "additionalProperties": text,
                "description": "Paths below dist/ to targets or target:output; {target.fact} is filled in"})),
        },
        "$defs": defs,
    })
}

fn rename_refs(schema: &mut Json, prefix: &str) {
    match schema {
        Json::Object(object) => {
            for (key, value) in object.iter_mut() {
                match value {
                    Json::String(text) if key == "$ref" => {
                        if let Some(name) = text.strip_prefix("#/$defs/") {
                            *text = format!("#/$defs/{prefix}{name}");
                        } else if text == "#" {
                            *text = format!("#/$defs/rule.{}", prefix.trim_end_matches('.'));
                        }
                    }
                    other => rename_refs(other, prefix),
                }
            }
        }
        Json::Array(items) => items.iter_mut().for_each(|item| rename_refs(item, prefix)),
        _ => {}
    }
}

/// Scalars are text to mosbuild, whatever YAML takes them for: a string may look like a number, and anything may
/// be `${var}`.
fn loosen(schema: &mut Json) {
    match schema {
        Json::Object(object) => {
            // What must stand in quotes is a string and nothing else; validators need not know our word for it.
            if object.get("format").is_some_and(|format| format == QUOTED) {
                object.remove("format");
                return;
            }
            let scalar = |name: &str| matches!(name, "string" | "integer" | "number" | "boolean");
            match object.get("type").cloned() {
                Some(Json::String(name)) if name == "string" => {
                    object.insert("type".into(), json!(["string", "number", "boolean"]));
                }
                Some(Json::String(name)) if scalar(&name) => {
                    or_var(object);
                    return;
                }
                Some(Json::Array(names)) => {
                    let mut all: Vec<Json> = Vec::new();
                    let has = |wanted: &str| names.iter().any(|n| n == wanted);
                    if has("string") {
                        all.extend([json!("string"), json!("number"), json!("boolean")]);
                        all.extend(names.iter().filter(|n| !n.as_str().is_some_and(scalar)).cloned());
                        object.insert("type".into(), Json::Array(all));
                    } else if names.iter().filter_map(Json::as_str).any(scalar) {
                        or_var(object);
                        return;
                    }
                }
                _ => {}
            }
            if object.contains_key("enum") || object.contains_key("const") {
                or_var(object);
                return;
            }
            // A variable fits each branch; "exactly one" would refuse it.
            if let Some(branches) = object.remove("oneOf") {
                object.insert("anyOf".into(), branches);
            }
            for (key, value) in object.iter_mut() {
                // Under `properties` the keys are fields, not words of the schema.
                match (key.as_str(), value) {
                    ("properties" | "patternProperties", Json::Object(fields)) => {
                        fields.values_mut().for_each(loosen);
                    }
                    ("default" | "required" | "description" | "examples", _) => {}
                    (_, other) => loosen(other),
                }
            }
        }
        Json::Array(items) => items.iter_mut().for_each(loosen),
        _ => {}
    }
}

/// Turns a scalar's schema into "that, or a string with a variable in it".
fn or_var(object: &mut Map<String, Json>) {
    if object.contains_key("anyOf") {
        return;
    }
    let mut kept = Map::new();
    if let Some(description) = object.remove("description") {
        kept.insert("description".into(), description);
    }
    if let Some(default) = object.remove("default") {
        kept.insert("default".into(), default);
    }
    let own = Json::Object(std::mem::take(object));
    kept.insert(
        "anyOf".into(),
        json!([own, {"type": "string", "pattern": "\\$\\{[A-Za-z_][A-Za-z0-9_-]*\\}"}]),
    );
    *object = kept;
}
