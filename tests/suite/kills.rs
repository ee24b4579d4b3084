//! Processes that are killed at random instants while they save.

use std::process::{Command, Stdio};
use std::time::Duration;

use bert::*;
use rand::{Rng, SeedableRng};

use crate::support::*;

/// Where the process that is killed saves.
const FOLDER: &str = "BERT_KILLED_IN";

/// Two models whose weights, number of shards and configs differ.
fn models() -> [(BertForSequenceClassification, SaveOptions); 2] {
    [(1, 3000), (2, 9000)].map(|(seed, most)| {
        let labels = (0..=seed).map(|label| format!("{seed} {label}"));
        let mut config = BertConfig::from_json(
            &std::fs::read_to_string(fixture("heads/lm/config.json")).unwrap(),
        )
        .unwrap();
        config.is_decoder = false;
        config.add_cross_attention = false;
        config.set_labels(labels);
        let options = LoadOptions::new();
        let model = BertForSequenceClassification::from_config(&config, seed, &options).unwrap();
        (model, SaveOptions::new().with_max_shard_size(most))
    })
}

fn scores(model: &BertForSequenceClassification) -> Vec<f64> {
    values(&model.forward(&BertInput::from_ids(ids(&[&[5, 6, 7]]))).unwrap().logits)
}

#[test]
#[ignore = "saves until it is killed: run by the next test"]
fn saves_two_models_in_turns_for_ever() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let models = models();
    for (model, options) in models.iter().cycle() {
        model.save_pretrained(&folder, options).unwrap();
    }
}

#[test]
fn a_save_that_is_killed_leaves_the_old_checkpoint_or_the_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let models = models();
    models[0].0.save_pretrained(folder.path(), &models[0].1).unwrap();
    let expected = models.map(|(model, _)| scores(&model));
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let mut seen = [0; 2];
    for kill in 0..30 {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "kills::saves_two_models_in_turns_for_ever"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros(random.random_range(20_000..120_000)));
        process.kill().unwrap();
        process.wait().unwrap();
        let loaded =
            BertForSequenceClassification::from_pretrained(folder.path(), &LoadOptions::new());
        let got = scores(&loaded.unwrap_or_else(|error| panic!("kill {kill}: {error}")));
        let which = expected.iter().position(|expected| *expected == got);
        seen[which.unwrap_or_else(|| panic!("kill {kill}: neither model"))] += 1;
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}
