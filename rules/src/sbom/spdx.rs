//! A bill in SPDX 2.3, JSON. Knows the standard's form; gathers nothing.

use std::collections::{BTreeMap, BTreeSet};

use mosbuild_cache::Digest;
use serde_json::{Map, Value, json};

use super::licence::{self, Licence};
use super::{Bill, Kind, Part, creator, sha256, uuid};

/// What stands where nothing is known.
const UNKNOWN: &str = "NOASSERTION";
const IMAGE: &str = "SPDXRef-image";

/// The document; equal bills are equal bytes. BLAKE3 is left out: the standard's own validator takes 256 bits of it for too few.
pub fn spdx(bill: &Bill) -> String {
    let (program, version) = creator();
    let mut other = BTreeMap::new();
    let mut image = json!({
        "SPDXID": IMAGE,
        "name": bill.name(),
        "primaryPackagePurpose": "FIRMWARE",
        "downloadLocation": UNKNOWN,
        "filesAnalyzed": false,
        "licenseConcluded": UNKNOWN,
        "licenseDeclared": UNKNOWN,
        "copyrightText": UNKNOWN,
    });
    if let Some(checksums) = checksums(&bill.hashes) {
        image["checksums"] = checksums;
    }
    let mut packages = vec![image];
    let mut relations = vec![relation("SPDXRef-DOCUMENT", "DESCRIBES", IMAGE)];
    relations.extend(bill.top.iter().map(|id| relation(IMAGE, "CONTAINS", &reference(id))));
    for part in bill.parts.values() {
        let own = reference(&part.id);
        packages.push(package(part, &mut other));
        let needs = part.needs.iter().filter(|id| bill.parts.contains_key(*id));
        relations.extend(needs.map(|id| relation(&own, "DEPENDS_ON", &reference(id))));
        for (path, text) in &part.patches {
            let patch = reference(&format!("{}#{path}", part.id));
            packages.push(json!({
                "SPDXID": patch,
                "name": path,
                "primaryPackagePurpose": "SOURCE",
                "downloadLocation": UNKNOWN,
                "filesAnalyzed": false,
                "checksums": [{"algorithm": "SHA256", "checksumValue": sha256(text.as_bytes())}],
                "licenseConcluded": UNKNOWN,
                "licenseDeclared": UNKNOWN,
                "copyrightText": UNKNOWN,
            }));
            relations.push(relation(&patch, "PATCH_FOR", &own));
        }
    }
    let mut document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": bill.name(),
        "creationInfo": {"created": bill.created(), "creators": [format!("Tool: {program}-{version}")]},
        "packages": packages,
        "relationships": relations,
    });
    if !other.is_empty() {
        let extracted = |(id, text): (&String, &String)| json!({"licenseId": id, "extractedText": text, "name": licence::name_of(text)});
        document["hasExtractedLicensingInfos"] = other.iter().map(extracted).collect();
    }
    document["documentNamespace"] = json!(format!("urn:uuid:{}", uuid(&document.to_string())));
    format!("{document:#}\n")
}

fn relation(from: &str, kind: &str, to: &str) -> Value {
    json!({"spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to})
}

/// An id of the form that SPDX wants: what can be read of ours, and a digest of it.
fn reference(id: &str) -> String {
    let plain: String =
        id.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    let short: String = plain
        .split('-')
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("-")
        .chars()
        .take(80)
        .collect();
    format!("SPDXRef-{short}-{}", Digest::of(id.as_bytes()).short())
}

fn checksums(hashes: &BTreeMap<&'static str, String>) -> Option<Value> {
    let known = hashes.iter().filter(|(name, _)| **name != "BLAKE3");
    let one = |(name, hex): (&&str, &String)| json!({"algorithm": name.replace("SHA-", "SHA"), "checksumValue": hex});
    let all: Vec<Value> = known.map(one).collect();
    (!all.is_empty()).then(|| json!(all))
}

fn package(part: &Part, other: &mut BTreeMap<String, String>) -> Value {
    let purpose = match part.kind {
        Kind::System | Kind::Kernel => "OPERATING-SYSTEM",
        Kind::Application => "APPLICATION",
        Kind::Library => "LIBRARY",
        Kind::Firmware => "FIRMWARE",
        Kind::File => "FILE",
    };
    let licence = match licence::read(&part.licence) {
        Licence::Unknown => UNKNOWN.to_owned(),
        Licence::Expression(text) => text,
        Licence::Named(text) => {
            let id = format!("LicenseRef-{}", Digest::of(text.as_bytes()).short());
            other.insert(id.clone(), text);
            id
        }
    };
    let mut out = Map::new();
    let mut set = |key: &str, value: Value| drop(out.insert(key.to_owned(), value));
    set("SPDXID", json!(reference(&part.id)));
    set("name", json!(part.name));
    if !part.version.is_empty() {
        set("versionInfo", json!(part.version));
    }
    set("primaryPackagePurpose", json!(purpose));
    if !part.supplier.is_empty() {
        set("supplier", json!(format!("Organization: {}", part.supplier)));
    }
    let from = Some(&part.from).filter(|from| from.contains("://") && !from.contains(char::is_whitespace));
    // The standard knows no addresses of this machine.
    let from = from.filter(|from| !from.starts_with("file:") && !from.starts_with("git+file:"));
    set("downloadLocation", json!(from.map_or(UNKNOWN, String::as_str)));
    set("filesAnalyzed", json!(false));
    if let Some(checksums) = checksums(&part.hashes) {
        set("checksums", checksums);
    }
    if part.page.starts_with("https://") || part.page.starts_with("http://") {
        set("homepage", json!(part.page));
    }
    let pins: BTreeSet<String> = part.pins.iter().map(|pin| format!("mosbuild.lock: {pin}")).collect();
    if !pins.is_empty() {
        set("sourceInfo", json!(pins.into_iter().collect::<Vec<_>>().join("\n")));
    }
    set("licenseConcluded", json!(UNKNOWN));
    set("licenseDeclared", json!(licence));
    set("copyrightText", json!(UNKNOWN));
    if !part.description.is_empty() {
        set("description", json!(part.description));
    }
    if let Some(purl) = &part.purl {
        let locator = json!({"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl});
        set("externalRefs", json!([locator]));
    }
    Value::Object(out)
}
