//! What a batch costs.

use std::{hint::black_box, time::Instant};

use tidegate::rollout::analysis::{Analysis, Batch, Outcomes, Settings, Sides, Window};

const BATCHES: u64 = 200_000;

/// Prints the time of a batch that ends a block in which every criterion has events, with 1 and with 64 strata.
pub(crate) fn measure() {
    println!("\n### Cost of a batch\n\n| strata | time of a batch, µs |\n|---|---|");
    for strata in [1, 64] {
        let settings = Settings::new(0.999, 0.005, 0.05, strata).unwrap();
        let mut analysis = Analysis::new(&settings);
        let side = |successes| Outcomes {
            successes,
            failures: 1,
            timed: successes,
            above_p95: successes / 20,
            above_p99: successes / 100,
        };
        let sides = Sides { stable: side(900), candidate: side(100) };
        let began = Instant::now();
        for interval in 0..BATCHES {
            let window = Window { step: 1, stratum: interval as usize % strata, interval };
            analysis.observe(std::time::Duration::ZERO, black_box(&Batch { window, sides }));
        }
        black_box(&analysis);
        let time = began.elapsed().as_secs_f64() / BATCHES as f64;
        println!("| {strata} | {:.1} |", 1e6 * time);
    }
}
