//! The reference of every key, made from the types that are decoded: a JSON schema for editors, and a page for people.
//!
//! A test fails when the files in the repository are not what these functions give.

use std::{collections::BTreeMap, fmt::Write};

use serde_json::{Map, Value, json};

use super::raw::Raw;

/// Sections in the order in which people meet them.
const ORDER: [&str; 15] = [
    "server",
    "reload",
    "admin",
    "log",
    "access_log",
    "audit_log",
    "acme",
    "dns",
    "listeners",
    "sites",
    "policies",
    "rollouts",
    "upstream_defaults",
    "upstreams",
    "webhooks",
];

/// Kinds of values that are written as text and have a name of their own.
const TEXT_KINDS: [(&str, &str); 10] = [
    ("duration", "a number with `ms`, `s`, `m`, `h` or `d`: `\"250ms\"`, `\"5s\"`, `\"1m 30s\"`"),
    (
        "size",
        "a whole number with `B`, `KiB`, `MiB`, `GiB` (powers of 1024) or `KB`, `MB`, `GB` (powers of 1000): `\"10MiB\"`",
    ),
    (
        "percentage",
        "a number from 0 to 100 with at most four decimals, and `%`: `\"10%\"`, `\"0.5%\"`",
    ),
    ("rate", "a whole number and `/s`, `/m` or `/h`: `\"3/s\"`, `\"100/m\"`"),
    ("network", "`\"10.0.0.0/8\"`, `\"2001:db8::/32\"`, or one address"),
    (
        "host",
        "`\"shop.example.com\"`, or `\"*.example.com\"`, where the star covers one label; no port",
    ),
    ("name", "letters, digits, `-`, `_` and `.`, at most 64 of them"),
    (
        "listen address",
        "`\"[::]:443\"` (IPv4 too), `\"0.0.0.0:80\"`, `\":8080\"`, `\"unix:/run/edge.sock\"`; port 0 takes a free one",
    ),
    (
        "endpoint address",
        "`\"10.0.0.11:8080\"`, `\"app.internal:8080\"` (resolved by DNS), `\"srv:_http._tcp.app.internal\"` (by SRV records), `\"unix:/run/app.sock\"`",
    ),
    ("name server", "`\"10.0.0.2\"` (port 53), `\"127.0.0.1:5353\"`"),
];

/// The JSON schema of a configuration file (draft 2020-12), for editors.
pub fn schema() -> Value {
    let mut schema = generated();
    let definitions = definitions_of(&schema);
    tidy(&mut schema, &definitions);
    if let Some(object) = schema.as_object_mut() {
        object.insert("title".to_owned(), json!("Tidegate configuration"));
    }
    schema
}

/// The reference as a page in Markdown.
pub fn markdown() -> String {
    let schema = generated();
    let mut page = Page { definitions: definitions_of(&schema), sections: Vec::new() };
    page.collect("", "", &schema);
    page.render(&schema)
}

fn generated() -> Value {
    schemars::schema_for!(Raw).to_value()
}

fn definitions_of(schema: &Value) -> Map<String, Value> {
    schema.get("$defs").and_then(Value::as_object).cloned().unwrap_or_default()
}

/// Takes out what TOML can't say (null) and defaults that are a remark and no value.
fn tidy(value: &mut Value, definitions: &Map<String, Value>) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(|value| tidy(value, definitions)),
        Value::Object(object) => {
            if let Some(Value::Array(types)) = object.get_mut("type") {
                types.retain(|kind| kind != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    object.insert("type".to_owned(), only);
                }
            }
            if let Some(Value::Array(forms)) = object.get_mut("anyOf") {
                forms.retain(|form| form.get("type") != Some(&json!("null")));
                if let [Value::Object(only)] = forms.as_slice() {
                    let only = only.clone();
                    object.remove("anyOf");
                    object.extend(only);
                }
            }
            let is_value = object.get("default").is_some_and(|default| {
                is_plain(default) && could_be(default, &Value::Object(object.clone()), definitions)
            });
            if !is_value {
                object.remove("default");
            }
            object.values_mut().for_each(|value| tidy(value, definitions));
        }
        _ => {}
    }
}

/// A default worth showing: no null, no empty list or table.
fn is_plain(default: &Value) -> bool {
    match default {
        Value::Null | Value::Object(_) => false,
        Value::Array(list) => !list.is_empty(),
        _ => true,
    }
}

/// Whether `value` has a type that `schema` allows. Looks at types and words only.
fn could_be(value: &Value, schema: &Value, definitions: &Map<String, Value>) -> bool {
    if let Some(definition) = referred(schema, definitions) {
        return could_be(value, definition.1, definitions);
    }
    if let Some(word) = schema.get("const") {
        return word == value;
    }
    let any = schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Value::as_array);
    if let Some(forms) = any {
        return forms.iter().any(|form| could_be(value, form, definitions));
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("boolean") => value.is_boolean(),
        Some("array") => value.is_array(),
        _ => false,
    }
}

/// The definition that a schema refers to, with its name.
fn referred<'a>(
    schema: &Value,
    definitions: &'a Map<String, Value>,
) -> Option<(&'a str, &'a Value)> {
    let name = schema.get("$ref")?.as_str()?.strip_prefix("#/$defs/")?.replace("%20", " ");
    definitions.get_key_value(&name).map(|(name, schema)| (name.as_str(), schema))
}

/// One table of keys, and all places where it can stand.
struct Section {
    definition: String,
    paths: Vec<String>,
    schema: Value,
}

struct Page {
    definitions: Map<String, Value>,
    sections: Vec<Section>,
}

impl Page {
    /// Finds the sections, depth first.
    fn collect(&mut self, definition: &str, path: &str, schema: &Value) {
        let known = self.sections.iter_mut().find(|section| section.definition == definition);
        match known {
            Some(section) => section.paths.push(path.to_owned()),
            None => self.sections.push(Section {
                definition: definition.to_owned(),
                paths: vec![path.to_owned()],
                schema: schema.clone(),
            }),
        }
        for (key, property) in ordered(schema) {
            let inner = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            self.collect_from(&inner, &property);
        }
    }

    fn collect_from(&mut self, path: &str, schema: &Value) {
        if let Some((name, target)) = referred(schema, &self.definitions) {
            let (name, target) = (name.to_owned(), target.clone());
            if path.ends_with("[][]") {
                return; // A list of itself goes on for ever.
            }
            if target.get("properties").is_some() {
                self.collect(&name, path, &target);
            } else if let Some(forms) = target.get("anyOf").and_then(Value::as_array) {
                for form in forms {
                    self.collect_from(path, form);
                }
            }
            return;
        }
        for form in schema.get("anyOf").and_then(Value::as_array).into_iter().flatten() {
            self.collect_from(path, form);
        }
        if let Some(item) = schema.get("items") {
            self.collect_from(&format!("{path}[]"), item);
        }
        if let Some(named) = named_things(schema) {
            self.collect_from(&format!("{path}.<name>"), named);
        }
        if let Some(valued) = schema.get("additionalProperties").filter(|inner| inner.is_object()) {
            self.collect_from(&format!("{path}.<key>"), valued);
        }
    }

    fn render(&self, root: &Value) -> String {
        let mut out = String::from(
            "# Configuration reference\n\n\
             Made from the code by `UPDATE_REFERENCE=1 cargo test --test it reference`; do not edit it by hand.\n\
             An unknown key is an error. Every text may hold `${NAME}`, which is taken from the environment (`$${` stands for `${`).\n\
             Paths of files are relative to the working directory; includes are relative to the file that names them.\n\n\
             Values that are written as text:\n\n",
        );
        for (kind, meaning) in TEXT_KINDS {
            let _ = writeln!(out, "- **{kind}**: {meaning}");
        }
        for section in &self.sections {
            let _ = write!(out, "\n<a id=\"{}\"></a>\n\n", anchor(&section.definition));
            if section.definition.is_empty() {
                out.push_str("## Top level\n\n");
            } else {
                let titles: Vec<String> =
                    section.paths.iter().map(|path| format!("`{path}`")).collect();
                let _ = write!(out, "## {}\n\n", titles.join(", "));
            }
            let schema = if section.definition.is_empty() { root } else { &section.schema };
            if let Some(description) = schema.get("description").and_then(Value::as_str) {
                let _ = write!(out, "{}\n\n", cell(description).replace(", as written", ""));
            }
            self.render_keys(schema, &mut out);
        }
        out
    }

    fn render_keys(&self, schema: &Value, out: &mut String) {
        out.push_str("| key | type | default | meaning |\n|---|---|---|---|\n");
        let required: Vec<&str> = schema
            .get("required")
            .and_then(Value::as_array)
            .map(|list| list.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        for (key, property) in ordered(schema) {
            let default = match property.get("default") {
                Some(default) if is_plain(default) => self.default_text(default, &property),
                _ if required.contains(&key.as_str()) => "must be there".to_owned(),
                _ => String::new(),
            };
            let mut meaning =
                property.get("description").and_then(Value::as_str).unwrap_or_default().to_owned();
            let words = self.words(&property);
            if !words.iter().all(|(word, _)| meaning.contains(&format!("`{word}`"))) {
                for (word, text) in words {
                    let _ = write!(meaning, " `{word}`: {text}");
                }
            }
            let kind = self.type_text(&property, &mut Vec::new());
            let _ = writeln!(
                out,
                "| `{key}` | {} | {} | {} |",
                cell(&kind),
                cell(&default),
                cell(&meaning)
            );
        }
    }

    fn default_text(&self, default: &Value, schema: &Value) -> String {
        let mut schema = schema.clone();
        tidy(&mut schema, &self.definitions);
        match default {
            // A remark, where it is no value of the key.
            Value::String(remark) if schema.get("default").is_none() => remark.clone(),
            value => format!("`{value}`"),
        }
    }

    /// Each word of an enum with its meaning, where the key takes one.
    fn words(&self, schema: &Value) -> Vec<(String, String)> {
        if let Some((_, target)) = referred(schema, &self.definitions) {
            return self.words(target);
        }
        let forms = schema.get("oneOf").or_else(|| schema.get("anyOf")).and_then(Value::as_array);
        let mut words = Vec::new();
        for form in forms.into_iter().flatten() {
            match (form.get("const"), form.get("description").and_then(Value::as_str)) {
                (Some(Value::String(word)), Some(text)) => {
                    words.push((word.clone(), text.to_owned()));
                }
                _ if form.get("$ref").is_some() => words.extend(self.words(form)),
                _ => {}
            }
        }
        words
    }

    fn type_text<'a>(&'a self, schema: &Value, open: &mut Vec<&'a str>) -> String {
        if let Some((name, target)) = referred(schema, &self.definitions) {
            if TEXT_KINDS.iter().any(|(kind, _)| *kind == name) {
                return name.to_owned();
            }
            if target.get("properties").is_some() {
                return format!("[table](#{})", anchor(name));
            }
            if open.contains(&name) {
                return "them".to_owned();
            }
            open.push(name);
            let text = self.type_text(target, open);
            open.pop();
            return text;
        }
        if let Some(word) = schema.get("const").and_then(Value::as_str) {
            return format!("`\"{word}\"`");
        }
        let forms = schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Value::as_array);
        if let Some(forms) = forms {
            let forms: Vec<String> = forms
                .iter()
                .filter(|form| form.get("type") != Some(&json!("null")))
                .map(|form| self.type_text(form, open))
                .collect();
            return forms.join(" or ");
        }
        match kind_of(schema) {
            Some("string") => "text".to_owned(),
            Some("boolean") => "`true` or `false`".to_owned(),
            Some("integer") => number_text(schema),
            Some("array") => {
                let item = schema.get("items").map(|item| self.type_text(item, open));
                format!("list of {}", item.unwrap_or_default())
            }
            _ => self.table_text(schema, open),
        }
    }

    fn table_text<'a>(&'a self, schema: &Value, open: &mut Vec<&'a str>) -> String {
        if let Some(named) = named_things(schema) {
            return format!("{} by name", self.type_text(named, open));
        }
        if let Some(value) = schema.get("additionalProperties").filter(|inner| inner.is_object()) {
            return format!("table: key = {}", self.type_text(value, open));
        }
        let keys: Vec<String> = ordered(schema).map(|(key, _)| format!("{key} = \"…\"")).collect();
        format!("`{{ {} }}`", keys.join(", "))
    }
}

/// The type, without the null that an optional key has.
fn kind_of(schema: &Value) -> Option<&str> {
    match schema.get("type")? {
        Value::String(kind) => Some(kind),
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null"),
        _ => None,
    }
}

fn number_text(schema: &Value) -> String {
    let bound = |key: &str| schema.get(key).and_then(Value::as_i64);
    match (bound("minimum"), bound("maximum")) {
        (Some(low), Some(high)) => format!("number, {low} to {high}"),
        (Some(low), None) => format!("number, from {low}"),
        _ => "number".to_owned(),
    }
}

/// What a table holds whose keys are names.
fn named_things(schema: &Value) -> Option<&Value> {
    schema.get("patternProperties")?.as_object()?.values().next()
}

/// The properties, sections of the top level in their order.
fn ordered(schema: &Value) -> impl Iterator<Item = (String, Value)> {
    let properties: BTreeMap<(usize, String), Value> = schema
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, value)| {
            // Only the top level has these keys together; elsewhere the order is that of the alphabet.
            let is_top = schema.get("$defs").is_some();
            let place = ORDER.iter().position(|section| is_top && section == key);
            ((place.map_or(0, |place| place + 1), key.clone()), value.clone())
        })
        .collect();
    properties.into_iter().map(|((_, key), value)| (key, value))
}

fn anchor(definition: &str) -> String {
    match definition.strip_prefix("Raw").unwrap_or(definition) {
        "" => "top-level".to_owned(),
        name => name.to_ascii_lowercase(),
    }
}

/// Text that fits into a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
