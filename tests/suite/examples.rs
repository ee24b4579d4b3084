//! The examples, as a user runs them.

use std::process::Command;

use crate::support::*;

/// What an example prints. It finds no downloaded checkpoint.
fn run(name: &str, arguments: &[&str]) -> String {
    let elsewhere = tempfile::tempdir().unwrap();
    let output = Command::new(example(name))
        .args(arguments)
        .current_dir(elsewhere.path())
        .env("HF_HUB_OFFLINE", "1")
        .env("HF_HOME", elsewhere.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn model(name: &str) -> String {
    fixture("pipelines").join(name).to_str().unwrap().to_owned()
}

#[test]
fn examples_on_the_built_in_checkpoint_give_real_answers() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = b"My dog is cute.\n\n  \nTom lives in Rome. \xff\nSnow is white.\n";
    std::fs::write(file.path(), text).unwrap();
    let (path, picture) = (file.path().to_str().unwrap(), file.path().with_extension("svg"));
    for (name, arguments, part) in [
        ("similarity", &["a dog", "a cat"][..], " 1.000"),
        ("search", &["--top-k", "1", path, "Where does Tom live?"], "Tom lives in Rome."),
        ("fill_mask", &["My [MASK] is barking.", "a [MASK] [MASK]"], "%  dog\n"),
        ("attention", &["--output", picture.to_str().unwrap(), "my dog <b>"], "layer 4 of 4"),
    ] {
        let out = run(name, arguments);
        for part in ["built-in checkpoint", part] {
            assert!(out.contains(part), "{name}: {out}");
        }
    }
    let out = run("rerank", &["Where does Tom live?", "Snow is white.", "Tom lives in Rome."]);
    assert!(out.find("Tom lives in Rome.") < out.find("Snow is white."), "{out}");
    // Of three texts, the two about a sleeping cat are most alike.
    let out = run("similarity", &[]);
    let row = out.lines().find(|line| line.ends_with("A cat is asleep.")).unwrap();
    let row: Vec<f32> = row.split_whitespace().take(3).map(|it| it.parse().unwrap()).collect();
    assert!(row[1] > row[2] + 0.2, "{out}");
    let svg = std::fs::read_to_string(&picture).unwrap();
    assert!(svg.contains("Head 2") && svg.contains("&lt;") && svg.ends_with("</svg>\n"));
    std::fs::remove_file(picture).unwrap();
}

#[test]
fn examples_on_a_named_checkpoint_print_its_results() {
    let out = run("classify", &["--model", &model("three_labels"), "a dog", "a cat"]);
    assert!(out.contains("a dog\n") && out.matches("positive").count() == 2, "{out}");
    let nli = model("nli");
    let labels = ["--model", &nli, "--label", "animals", "--label", "sports", "a dog"];
    let out = run("classify", &labels);
    assert!(out.contains("%  animals") && out.contains("%  sports"), "{out}");
    let out = run("tag", &["--model", &model("ner"), "Anna Smith lives in New York."]);
    assert!(out.contains("Anna Smith lives") && out.contains("%  "), "{out}");
    let text = ["where is the dog?", "the dog is in a big house."];
    let out = run("answer", &["--model", &model("answers"), text[0], text[1]]);
    assert!(out.lines().count() > 1 && out.contains("%  "), "{out}");
    let out = run("fill_mask", &["--model", &model("masked_lm"), "--target", "dog", "a [MASK]"]);
    assert!(out.contains("dog") && !out.contains("built-in"), "{out}");
}
