//! The reference of the metrics, made from their definitions.

use std::fmt::Write as _;

use super::names::{
    BUCKETS, OWN_BUCKETS, OWN_DURATION, SECTIONS, TUNNEL_BUCKETS, TUNNEL_DURATION, values_of,
};

/// The reference as Markdown: names, types, labels, meaning. It is `docs/reference/metrics.md`.
pub fn reference() -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         Written by `UPDATE_REFERENCE=1 cargo test --test it reference`; do not edit.\n\n\
         `GET /metrics` on the admin listener answers in Prometheus' text format 0.0.4. Times are in seconds, sizes in \
         bytes. Labels are names from the configuration or values from the lists below, never what a client sent. \
         A route has series from its first request on. The series of a route, listener or upstream that is no longer configured end ten minutes after its last \
         request; those of an endpoint or a certificate end at once. An empty `upstream` is a route that the edge \
         answers by itself.\n",
    );
    for (section, definitions) in SECTIONS {
        let _ = write!(
            text,
            "\n## {section}\n\n| name | type | labels | meaning |\n| --- | --- | --- | --- |\n"
        );
        for definition in *definitions {
            let labels: Vec<_> =
                definition.labels.iter().map(|label| format!("`{label}`")).collect();
            let _ = writeln!(
                text,
                "| `{}` | {} | {} | {} |",
                definition.name,
                definition.kind.word(),
                labels.join(", "),
                definition.help
            );
        }
        for definition in *definitions {
            for label in definition.labels {
                if let Some(values) = values_of(definition, label) {
                    let values: Vec<_> = values.iter().map(|value| format!("`{value}`")).collect();
                    let _ = write!(
                        text,
                        "\n`{label}` of `{}`: {}.\n",
                        definition.name,
                        values.join(", ")
                    );
                }
            }
        }
    }
    let bounds =
        |buckets: &[f64]| buckets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let _ = write!(
        text,
        "\n## Buckets\n\nUpper bounds in seconds: {}.\n\nOf `{}`: {}.\n\nOf `{}`: {}.\n",
        bounds(BUCKETS),
        OWN_DURATION.name,
        bounds(OWN_BUCKETS),
        TUNNEL_DURATION.name,
        bounds(TUNNEL_BUCKETS)
    );
    text
}
