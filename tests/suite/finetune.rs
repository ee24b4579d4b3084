//! The example that fine-tunes, its data, and what it says of bad input.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Output};

use crate::hub::hello;
use crate::support::*;

#[path = "../../examples/finetune/data.rs"]
#[allow(dead_code)]
mod data;

fn finetune(args: &[&str]) -> Output {
    Command::new(example("finetune")).args(args).output().unwrap()
}

#[track_caller]
fn assert_fails(output: &Output, parts: &[&str]) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    for part in parts {
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
    assert!(!error.contains("panicked"), "{error}");
}

fn write(folder: &Path, name: &str, text: &str) -> String {
    std::fs::write(folder.join(name), text).unwrap();
    folder.join(name).to_str().unwrap().to_owned()
}

/// A few short texts of two classes.
fn texts(folder: &Path) -> String {
    let rows: Vec<String> = (0..20)
        .map(|i| format!("{} dog {i}\t{}", ["my", "the"][i % 2], ["mine", "any"][i % 2]))
        .collect();
    write(folder, "texts.tsv", &format!("text\tlabel\n{}\n", rows.join("\n")))
}

/// Accuracy on `test` of a logistic regression over the counts of words, trained on `train`.
fn bag_of_words(train: &[(String, bool)], test: &[(String, bool)]) -> f64 {
    let mut indices = HashMap::new();
    for word in train.iter().flat_map(|(text, _)| text.split(' ')) {
        let next = indices.len();
        indices.entry(word.to_owned()).or_insert(next);
    }
    let bag = |text: &str| -> Vec<usize> {
        text.split(' ').filter_map(|word| indices.get(word).copied()).collect()
    };
    let (mut weights, mut bias) = (vec![0f64; indices.len()], 0f64);
    for epoch in 0..60 {
        let rate = 0.1 / (1. + epoch as f64 / 10.);
        for (text, label) in train {
            let bag = bag(text);
            let score = bias + bag.iter().map(|i| weights[*i]).sum::<f64>();
            let error = f64::from(u8::from(*label)) - 1. / (1. + (-score).exp());
            bias += rate * error;
            bag.iter().for_each(|i| weights[*i] += rate * error);
        }
    }
    let right = test.iter().filter(|(text, label)| {
        (bias + bag(text).iter().map(|i| weights[*i]).sum::<f64>() > 0.) == *label
    });
    right.count() as f64 / test.len() as f64
}

#[test]
fn a_bag_of_words_cannot_tell_the_made_up_classes_apart() {
    let examples = data::generate(4000, 0);
    let tame = examples.iter().filter(|example| example.label == "tame").count();
    assert!((1800..2200).contains(&tame), "{tame}");
    let labeled: Vec<(String, bool)> =
        examples.iter().map(|it| (it.text.clone(), it.label == "tame")).collect();
    let (train, test) = labeled.split_at(3600);
    let accuracy = bag_of_words(train, test);
    assert!(accuracy <= 0.7, "{accuracy}");
    // The same regression learns what words alone tell.
    let with_words = |rows: &[(String, bool)]| -> Vec<(String, bool)> {
        rows.iter().map(|(text, _)| (text.clone(), text.contains(" was "))).collect()
    };
    assert!(bag_of_words(&with_words(train), &with_words(test)) > 0.95);
}

#[test]
fn what_finetune_saves_is_what_hello_loads() {
    let folder = tempfile::tempdir().unwrap();
    let (data, output) = (texts(folder.path()), folder.path().join("best"));
    let run = finetune(&["--train", &data, "--epochs", "2", "--output", output.to_str().unwrap()]);
    let (out, error) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{error}");
    for part in
        ["learn 2 classes from 18 texts, measured on 2", "epoch 2: loss", "accuracy", "best "]
    {
        assert!(out.contains(part), "{out}");
    }
    let (ok, out, error) = hello(&["--model", output.to_str().unwrap()], &[]);
    assert!(ok, "{error}");
    assert!(out.contains("last_hidden_state: [1, 8, 128] F32"), "{out}");
    // It goes on from there: classes are the checkpoint's.
    let more =
        write(folder.path(), "more.jsonl", "{\"text\": \"my dog\", \"label\": \"theirs\"}\n");
    let args = ["--model", output.to_str().unwrap(), "--train", &data, "--eval", &more];
    assert_fails(&finetune(&args), &["\"my dog\"", "\"theirs\"", "id2label", "any, mine"]);
}

#[test]
fn bad_data_and_settings_say_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let good = texts(path);
    for (name, text, parts) in [
        ("empty.tsv", "text\tlabel\n", &["empty.tsv has no examples"][..]),
        ("empty.jsonl", "\n", &["empty.jsonl has no examples"]),
        ("columns.tsv", "words\tlabel\na\tb\n", &["columns.tsv", "missing field `text`"]),
        (
            "list.jsonl",
            "{\"text\": \"a\", \"label\": [1]}",
            &["line 1", "label is [1]", "expected the name"],
        ),
        ("half.jsonl", "{\"text\": \"a\", \"label\": 0.5}", &["line 1", "label is 0.5"]),
        ("none.tsv", "text\tlabel\na\t\n", &["none.tsv", "label is "]),
        ("cut.jsonl", "{\"text\": \"a\"", &["cut.jsonl line 1", "EOF"]),
        ("data.csv", "text,label\n", &["expected a file that ends in .tsv or .jsonl"]),
    ] {
        assert_fails(&finetune(&["--train", &write(path, name, text)]), parts);
    }
    let few = write(path, "few.tsv", "text\tlabel\na\tb\n");
    assert_fails(&finetune(&["--train", &few]), &["too few to hold some back"]);
    assert_fails(&finetune(&["--train", "no/such.tsv"]), &["no/such.tsv"]);
    for (args, parts) in [
        (["--learning-rate", "nan"], &["learning_rate is NaN", "finite"][..]),
        (["--weight-decay=-1", "--epochs=1"], &["weight_decay is -1"]),
        (["--max-grad-norm", "0"], &["max_norm is 0", "positive"]),
        (["--accumulate", "0"], &["--accumulate: 1 to --batch-size"]),
    ] {
        let args = [&["--train", &good][..], &args[..]].concat();
        assert_fails(&finetune(&args), parts);
    }
}

#[test]
fn labels_of_tables_are_names_and_lists_may_begin_with_a_mark() {
    let folder = tempfile::tempdir().unwrap();
    let labels = |name: &str, text: &str| -> Vec<String> {
        let examples = data::read(Path::new(&write(folder.path(), name, text))).unwrap();
        examples.into_iter().map(|example| example.label).collect()
    };
    let table = "text\tlabel\na\ttrue\nb\t-1\nc\t007\nd\tnan\ne\t0.5\n";
    assert_eq!(labels("names.tsv", table), ["true", "-1", "007", "nan", "0.5"]);
    let list = "\u{feff}{\"text\": \"a\", \"label\": 7}\r\n{\"text\": \"b\", \"label\": \"x\"}\r\n";
    assert_eq!(labels("mark.jsonl", list), ["7", "x"]);
}

#[test]
fn classes_that_cannot_be_learned_are_errors_before_training() {
    let folder = tempfile::tempdir().unwrap();
    let rows = |label: &dyn Fn(usize) -> String| -> String {
        (0..20).map(|i| format!("dog {i}\t{}\n", label(i))).collect()
    };
    let table = |name: &str, label: &dyn Fn(usize) -> String| {
        write(folder.path(), name, &format!("text\tlabel\n{}", rows(label)))
    };
    let different = table("different.tsv", &|i| format!("class {i}"));
    assert_fails(&finetune(&["--train", &different]), &["no class has enough texts", "--eval"]);
    let one = table("one.tsv", &|_| "same".to_owned());
    assert_fails(&finetune(&["--train", &one]), &["there is only one class"]);
    // One that is rare is learned, not measured: of two texts that would be, one may be left.
    let mut fewer = 0;
    for seed in 1..6 {
        let rare =
            table("rare.tsv", &|i| if i < 4 { format!("rare {i}") } else { "any".to_owned() });
        let output = folder.path().join("best");
        let (seed, output) = (seed.to_string(), output.to_str().unwrap());
        let args = ["--train", &rare, "--epochs=1", "--seed", &seed, "--output", output];
        let run = finetune(&args);
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let out = String::from_utf8_lossy(&run.stdout);
        assert!(out.contains("learn 5 classes"), "{out}");
        fewer += usize::from(out.contains("measured on 1 others"));
    }
    assert!(fewer > 0);
    let frozen = ["--train", &texts(folder.path()), "--freeze", "embeddings."];
    assert_fails(&finetune(&frozen), &["--freeze embeddings.", "no parameter name"]);
}

/// A limit on the size of files stands for a full disk: both make a write fail half-way.
#[cfg(unix)]
#[test]
fn a_disk_that_is_full_while_saving_leaves_the_old_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let (data, output) = (texts(folder.path()), folder.path().join("best"));
    let output = output.to_str().unwrap();
    let args = ["--train", &data, "--epochs", "1", "--output", output];
    assert!(finetune(&args).status.success());
    let before = std::fs::read(Path::new(output).join("model.safetensors")).unwrap();
    let program = example("finetune");
    let full = Command::new("bash")
        .args(["-c", "trap '' XFSZ; ulimit -f 100; exec \"$@\"", "bash", program.to_str().unwrap()])
        .args(args)
        .args(["--seed", "2"])
        .output()
        .unwrap();
    assert_fails(&full, &["cannot save to", "make room there"]);
    assert_eq!(std::fs::read(Path::new(output).join("model.safetensors")).unwrap(), before);
    let files = std::fs::read_dir(output).unwrap().count();
    assert_eq!(files, 4, "nothing half-written stays");
    assert!(hello(&["--model", output], &[]).0);
}

#[test]
#[ignore = "takes a minute: run by scripts/check"]
fn fine_tuning_learns_the_order_of_words_within_three_minutes() {
    let folder = tempfile::tempdir().unwrap();
    let start = std::time::Instant::now();
    let run = finetune(&["--output", folder.path().to_str().unwrap()]);
    let out = String::from_utf8_lossy(&run.stdout);
    println!("{out}");
    assert!(run.status.success() && start.elapsed().as_secs() < 180, "{:?}", start.elapsed());
    let best = out.lines().last().unwrap().strip_prefix("best ").unwrap();
    let best: f64 = best.split(' ').next().unwrap().parse().unwrap();
    assert!(best >= 95., "{out}");
}
