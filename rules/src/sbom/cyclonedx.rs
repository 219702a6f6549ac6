//! A bill in CycloneDX 1.6, JSON. Knows the standard's form; gathers nothing.

use serde_json::{Map, Value, json};

use super::licence::{self, Licence};
use super::{Bill, Kind, Part, creator, uuid};

/// The document; equal bills are equal bytes.
pub fn cyclonedx(bill: &Bill) -> String {
    let (program, version) = creator();
    let root = format!("image:{}", bill.name());
    let mut image = json!({"type": "firmware", "bom-ref": root, "name": bill.name()});
    if !bill.hashes.is_empty() {
        image["hashes"] = hashes(&bill.hashes);
    }
    let mut document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": bill.created(),
            "tools": {"components": [{"type": "application", "name": program, "version": version}]},
            "component": image,
        },
        "components": bill.parts.values().map(component).collect::<Vec<_>>(),
    });
    let dependency = |id: &str, needs: &std::collections::BTreeSet<String>| json!({"ref": id, "dependsOn": needs.iter().filter(|n| bill.parts.contains_key(*n)).collect::<Vec<_>>()});
    let mut dependencies = vec![dependency(&root, &bill.top)];
    dependencies.extend(bill.parts.values().map(|part| dependency(&part.id, &part.needs)));
    document["dependencies"] = json!(dependencies);
    document["serialNumber"] = json!(format!("urn:uuid:{}", uuid(&document.to_string())));
    format!("{document:#}\n")
}

fn hashes(hashes: &std::collections::BTreeMap<&'static str, String>) -> Value {
    hashes.iter().map(|(alg, content)| json!({"alg": alg, "content": content})).collect()
}

fn component(part: &Part) -> Value {
    let kind = match part.kind {
        Kind::System | Kind::Kernel => "operating-system",
        Kind::Application => "application",
        Kind::Library => "library",
        Kind::Firmware => "firmware",
        Kind::File => "file",
    };
    let mut out = Map::new();
    let mut set = |key: &str, value: Value| drop(out.insert(key.to_owned(), value));
    set("type", json!(kind));
    set("bom-ref", json!(part.id));
    if !part.supplier.is_empty() {
        set("supplier", json!({"name": part.supplier}));
    }
    set("name", json!(part.name));
    if !part.version.is_empty() {
        set("version", json!(part.version));
    }
    if !part.description.is_empty() {
        set("description", json!(part.description));
    }
    if !part.hashes.is_empty() {
        set("hashes", hashes(&part.hashes));
    }
    match licence::read(&part.licence) {
        Licence::Unknown => {}
        Licence::Expression(text) => set("licenses", json!([{"expression": text}])),
        Licence::Named(text) => {
            let name = licence::name_of(&text);
            let mut licence = json!({"name": name});
            if name != text {
                licence["text"] = json!({"content": text});
            }
            set("licenses", json!([{"license": licence}]));
        }
    }
    if let Some(purl) = &part.purl {
        set("purl", json!(purl));
    }
    let mut references = Vec::new();
    for (kind, url) in [("distribution", &part.from), ("website", &part.page)] {
        // Only what is a URL may stand there.
        if url.contains("://") && !url.contains(char::is_whitespace) {
            references.push(json!({"type": kind, "url": url}));
        }
    }
    if !references.is_empty() {
        set("externalReferences", json!(references));
    }
    if !part.patches.is_empty() {
        let patch = |(_, text): &(String, String)| json!({"type": "unofficial", "diff": {"text": {"contentType": "text/x-diff", "content": text}}});
        set("pedigree", json!({"patches": part.patches.iter().map(patch).collect::<Vec<_>>()}));
    }
    let pins = part.pins.iter().map(|pin| json!({"name": "mosbuild:lock", "value": pin}));
    let patches = part.patches.iter().map(|(path, _)| json!({"name": "mosbuild:patch", "value": path}));
    let properties: Vec<Value> = pins.chain(patches).collect();
    if !properties.is_empty() {
        set("properties", json!(properties));
    }
    Value::Object(out)
}
