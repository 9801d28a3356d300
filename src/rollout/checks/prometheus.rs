//! The answer of Prometheus to an instant query
//! (<https://prometheus.io/docs/prometheus/latest/querying/api/#instant-queries>). Pure.

use serde::Deserialize;
use serde_json::Value;

use super::{Outcome, config::Bounds, outcome::excerpt};

/// An answer, of status 200 or of an error.
#[derive(Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
enum Answer {
    Success {
        data: Data,
    },
    Error {
        #[serde(default)]
        error: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    /// `scalar`, `vector`, `matrix` or `string`.
    result_type: String,
    result: Value,
}

#[derive(Deserialize)]
struct Series {
    #[serde(default)]
    value: Option<Sample>,
}

/// A time, and a number as text.
#[derive(Deserialize)]
struct Sample(#[allow(dead_code, reason = "its place is what counts")] f64, String);

/// Judges an answer by the one number in it.
pub(super) fn judge(status: u16, body: &[u8], bounds: &Bounds) -> Outcome {
    let value = match serde_json::from_slice(body) {
        Ok(Answer::Success { data }) => single(data),
        Ok(Answer::Error { error }) => Err(format!("Prometheus says: {}", excerpt(&error))),
        Err(_) if status != 200 => Err(format!("Prometheus answers {status}")),
        Err(_) => Err("the answer is not one of Prometheus".to_owned()),
    };
    match value {
        Ok(value) => bounds.judge(value),
        Err(text) => Outcome::NoAnswer { text },
    }
}

/// The number of a result that has exactly one.
fn single(data: Data) -> Result<f64, String> {
    let unread = |_| "the answer is not one of Prometheus".to_owned();
    let sample: Sample = match &*data.result_type {
        "scalar" => serde_json::from_value(data.result).map_err(unread)?,
        "vector" => {
            let series: Vec<Series> = serde_json::from_value(data.result).map_err(unread)?;
            let count = series.len();
            let mut series = series.into_iter();
            match (series.next(), series.next()) {
                (Some(Series { value: Some(sample) }), None) => sample,
                (Some(_), None) => return Err("the query gives no plain number".to_owned()),
                (None, _) => return Err("the query gives no sample".to_owned()),
                (Some(_), Some(_)) => {
                    return Err(format!("the query gives {count} samples, wanted one"));
                }
            }
        }
        _ => return Err("the query gives neither a scalar nor a vector".to_owned()),
    };
    match sample.1.parse::<f64>() {
        Ok(value) if !value.is_nan() => Ok(value),
        Ok(_) => Err("the query gives NaN".to_owned()),
        Err(_) => Err("the query gives no number".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(body: &str) -> Outcome {
        judge(200, body.as_bytes(), &Bounds { min: Some(0.01), max: Some(0.05) })
    }

    fn scalar(value: &str) -> Outcome {
        judged(&format!(
            r#"{{"status":"success","data":{{"resultType":"scalar","result":[1.5,"{value}"]}}}}"#
        ))
    }

    fn vector(result: &str) -> Outcome {
        judged(&format!(
            r#"{{"status":"success","data":{{"resultType":"vector","result":[{result}]}},"warnings":[]}}"#
        ))
    }

    #[test]
    fn one_number_is_judged_by_its_bounds() {
        let sample = r#"{"metric":{"job":"api"},"value":[1795246936.1,"0.05"]}"#;
        assert_eq!(vector(sample), Outcome::Passes);
        assert_eq!(scalar("0.01"), Outcome::Passes);
        assert_eq!(scalar("0.07"), Outcome::fails("the query gives 0.07, wanted at most 0.05"));
        assert_eq!(scalar("0.001"), Outcome::fails("the query gives 0.001, wanted at least 0.01"));
        assert_eq!(scalar("+Inf"), Outcome::fails("the query gives inf, wanted at most 0.05"));
    }

    #[test]
    fn what_is_not_one_number_is_no_answer() {
        let one = r#"{"metric":{},"value":[1,"0.02"]}"#;
        for (outcome, text) in [
            (vector(""), "the query gives no sample"),
            (vector(&format!("{one},{one}")), "the query gives 2 samples, wanted one"),
            (vector(r#"{"metric":{},"histogram":[1,{}]}"#), "the query gives no plain number"),
            (scalar("NaN"), "the query gives NaN"),
            (scalar("many"), "the query gives no number"),
            (
                judged(r#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#),
                "the query gives neither a scalar nor a vector",
            ),
            (
                judged(r#"{"status":"success","data":{"resultType":"string","result":[1,"x"]}}"#),
                "the query gives neither a scalar nor a vector",
            ),
            (
                judged(r#"{"status":"error","errorType":"bad_data","error":"parse\nerror"}"#),
                "Prometheus says: parse error",
            ),
            (judged("<html>"), "the answer is not one of Prometheus"),
            (judged("{}"), "the answer is not one of Prometheus"),
        ] {
            assert_eq!(outcome, Outcome::no_answer(text));
        }
        let bounds = Bounds { min: None, max: Some(1.0) };
        assert_eq!(judge(502, b"<html>", &bounds), Outcome::no_answer("Prometheus answers 502"));
    }
}
