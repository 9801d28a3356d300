//! The steps of a canary, from what is written.

use std::time::Duration;

use super::{
    plan::Step,
    raw::{RawStep, RawStepTable},
};
use crate::types::{HumanDuration, KeyPath, Percent, Problems, defaults};

/// The most steps that a canary may have.
const MOST_STEPS: usize = 64;

/// The steps as written, or the usual ones.
pub(super) fn parse(
    written: Option<&[RawStep]>,
    path: &KeyPath,
    problems: &mut Problems,
) -> Vec<Step> {
    let Some(written) = written else {
        return defaults::CANARY_STEPS.iter().filter_map(|text| read(text).ok()).collect();
    };
    if written.is_empty() || written.len() > MOST_STEPS {
        problems
            .error(path, format!("a canary has from 1 to {MOST_STEPS} steps"))
            .help("write `steps = [\"1% 2m\", \"10% 5m\", \"50% 5m\"]`");
        return Vec::new();
    }
    let mut steps: Vec<Step> = Vec::with_capacity(written.len());
    for (i, raw) in written.iter().enumerate() {
        let at = path.index(i);
        let step = match raw {
            RawStep::Table(table) => table.step(),
            RawStep::Text(text) => match read(text) {
                Ok(step) => step,
                Err(problem) => {
                    problems.error(&at, problem).help(
                        "write a share, a duration, a number of requests, `pause`: \"10% 5m 2000 pause\"",
                    );
                    continue;
                }
            },
        };
        check(&step, steps.last(), i, path, problems);
        steps.push(step);
    }
    steps
}

fn check(
    step: &Step,
    before: Option<&Step>,
    place: usize,
    path: &KeyPath,
    problems: &mut Problems,
) {
    let at = path.index(place);
    if step.share == Percent::ALL {
        problems
            .error(&at, "at 100% there is nothing left to compare the candidate with")
            .help("leave the step out: `finish = \"promote\"` gives the candidate all requests");
    }
    if step.duration.is_zero() && step.requests == 0 && !step.pause {
        problems
            .error(&at, "the step asks for nothing: neither time, nor requests, nor a person")
            .help("write how long it lasts, such as \"10% 5m\", or \"10% pause\"");
    }
    if let Some(before) = before.filter(|before| before.share > step.share) {
        problems
            .error(&at, format!("the share goes down, from {} to {}", before.share, step.share))
            .help("shares of a canary only grow; going back is what a verdict or `abort` does")
            .related(path.index(place - 1), "the step before");
    }
}

impl RawStepTable {
    fn step(&self) -> Step {
        Step {
            share: self.share,
            duration: self.duration.map_or(Duration::ZERO, |duration| duration.0),
            requests: self.requests.unwrap_or_default(),
            pause: self.pause.unwrap_or_default(),
        }
    }
}

/// Reads `"10% 5m 2000 pause"`: the share first, the others in any order.
fn read(text: &str) -> Result<Step, String> {
    let mut words = text.split_whitespace();
    let share = words.next().unwrap_or_default().parse::<Percent>()?;
    let mut step = Step { share, duration: Duration::ZERO, requests: 0, pause: false };
    for word in words {
        if word == "pause" {
            step.pause = true;
        } else if word.bytes().all(|byte| byte.is_ascii_digit()) {
            step.requests =
                word.parse().map_err(|_| format!("\"{word}\" requests are too many"))?;
        } else {
            let part = word.parse::<HumanDuration>().map_err(|_| {
                format!("\"{word}\" is neither a duration, nor a number of requests, nor `pause`")
            })?;
            step.duration = step.duration.saturating_add(part.0);
        }
    }
    Ok(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Steps {
        steps: Vec<RawStep>,
    }

    fn steps(text: &str) -> Result<Vec<Step>, String> {
        let raw: Steps = toml::from_str(&format!("steps = {text}")).unwrap();
        let mut problems = Problems::new();
        let steps = parse(Some(&raw.steps), &KeyPath::of(&["steps"]), &mut problems);
        match problems.iter().next() {
            Some(problem) => Err(format!("{}: {}", problem.path, problem.message)),
            None => Ok(steps),
        }
    }

    #[test]
    fn steps_are_read_from_text_and_tables_alike() {
        let text = "[\"0.5% pause\", \"10% 1m 30s 2000\", \"10% 500\"]";
        let table = "[{ share = \"0.5%\", pause = true }, { share = \"10%\", duration = \"90s\", requests = 2000 }, { share = \"10%\", requests = 500 }]";
        let read = steps(text).unwrap();
        assert_eq!(read, steps(table).unwrap());
        assert_eq!(read[1].duration, Duration::from_secs(90));
        assert_eq!((read[1].requests, read[0].pause, read[1].pause), (2_000, true, false));
        let usual = parse(None, &KeyPath::of(&["steps"]), &mut Problems::new());
        assert_eq!(usual.len(), defaults::CANARY_STEPS.len());
    }

    #[test]
    fn a_step_for_ever_is_one() {
        let long = "213503982334d ".repeat(2_000);
        assert_eq!(steps(&format!("[\"10% {long}\"]")).unwrap()[0].duration, Duration::MAX);
    }

    #[test]
    fn steps_that_make_no_sense_are_refused() {
        for (text, said) in [
            ("[]", "from 1 to 64"),
            ("[\"10% 5m\", \"5% 5m\"]", "steps[1]: the share goes down, from 10% to 5%"),
            ("[\"10%\"]", "asks for nothing"),
            ("[\"10% 0s 0\"]", "asks for nothing"),
            ("[{ share = \"10%\" }]", "asks for nothing"),
            ("[\"100% 5m\"]", "nothing left to compare"),
            ("[\"5m 10%\"]", "not a percentage"),
            ("[\"10% 5x\"]", "\"5x\" is neither"),
            ("[\"10% 99999999999999999999\"]", "too many"),
        ] {
            let error = steps(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
