//! The example that pre-trains, its corpus, and what the built-in checkpoint learned.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Output};

use bert::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::support::*;

#[path = "../../examples/pretrain/corpus.rs"]
mod corpus;
#[path = "../../examples/pretrain/held_back.rs"]
mod held_back;
#[path = "../../examples/pretrain/learning.rs"]
#[allow(dead_code)]
mod learning;
#[path = "../../examples/pretrain/texts.rs"]
#[allow(dead_code)]
mod texts;

use corpus::{Grammar, Sentence};
use learning::{Masking, Recipe};
use texts::Texts;

fn pretrain(args: &[&str]) -> Output {
    Command::new(example("pretrain")).args(args).output().unwrap()
}

#[track_caller]
fn assert_fails(args: &[&str], parts: &[&str]) {
    let output = pretrain(args);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{args:?} succeeded");
    for part in parts {
        assert!(error.contains(part), "{args:?}: {error:?} does not say {part:?}");
    }
    assert!(!error.contains("panicked"), "{error}");
}

/// A few documents of a few sentences.
fn text(folder: &Path) -> String {
    let documents: Vec<String> = (0..12)
        .map(|i| {
            let (animal, place) = (["dog", "cat", "cow"][i % 3], ["house", "garden"][i % 2]);
            format!("the {animal} is here\nit is in the {place}\nthe {place} is near\n")
        })
        .collect();
    let path = folder.join("text.txt");
    std::fs::write(&path, documents.join("\n")).unwrap();
    path.to_str().unwrap().to_owned()
}

const SMALL: &[&str] = &[
    "--steps=6",
    "--save-every=2",
    "--batch-size=8",
    "--parts=2",
    "--similarity-weight=1",
    "--hidden-size=8",
    "--layers=1",
    "--heads=2",
    "--max-length=16",
];

/// The arguments of a small run.
fn small<'a>(output: &'a str, rest: &[&'a str]) -> Vec<&'a str> {
    [SMALL, &["--output", output], rest].concat()
}

#[track_caller]
fn run(args: &[&str]) -> String {
    let output = pretrain(args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_marked_word_is_the_only_one_that_fits_its_sentence() {
    let grammar = Grammar::english().unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let mut words: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for _ in 0..20_000 {
        for sentence in grammar.document(&mut random).unwrap() {
            for (text, word) in sentence.masked() {
                words.entry(text.to_lowercase()).or_default().insert(word.to_lowercase());
            }
        }
    }
    assert!(words.len() > 5000, "{}", words.len());
    for (text, words) in words {
        assert_eq!(words.len(), 1, "{text}: {words:?}");
    }
}

#[test]
fn sentences_are_written_as_english_is() {
    let grammar = Grammar::english().unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let mut seen = BTreeSet::new();
    for _ in 0..5000 {
        for Sentence { text, determined } in grammar.document(&mut random).unwrap() {
            assert!(text.starts_with(|it: char| it.is_uppercase()), "{text}");
            assert!(text.ends_with(['.', '?', '!']), "{text}");
            for wrong in ["  ", " .", "{", "[", "(", "/", "|", " a a", " a e", " a o", " an c"] {
                assert!(!text.contains(wrong), "{text:?} has {wrong:?}");
            }
            assert!(determined.iter().all(|it| text.get(it.clone()).is_some()), "{text}");
            seen.insert(text);
        }
    }
    for sentence in ["Snow is white.", "The capital of France is Paris.", "Dogs bark."] {
        assert!(seen.contains(sentence), "nobody says {sentence}");
    }
}

#[test]
fn paraphrases_differ_in_words_and_triples_in_meaning() {
    let grammar = Grammar::english().unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(5);
    for _ in 0..500 {
        let alike = grammar.paraphrases(4, &mut random).unwrap();
        let meanings: BTreeSet<_> = alike.iter().map(|it| &it.meaning).collect();
        assert!(meanings.len() == alike.len() && !alike.is_empty() && alike.len() <= 4);
        assert!(alike.iter().all(|it| it.texts[0].text != it.texts[1].text));
        let texts: BTreeSet<_> = alike.iter().flat_map(|it| &it.texts).map(|it| &it.text).collect();
        assert_eq!(texts.len(), 2 * alike.len(), "{alike:?}");
    }
    let triples = held_back::triples(&grammar).unwrap();
    assert_eq!(triples.len(), 50);
    for [one, two, three] in triples {
        assert!(one != two && two != three && one != three, "{one} {two} {three}");
    }
}

#[test]
fn stories_are_the_same_for_the_same_seed_and_one_sentence_in_32_is_held_back() {
    let grammar = Grammar::english().unwrap();
    let stories = |seed| -> Vec<Sentence> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        (0..2000).flat_map(|_| grammar.document(&mut random).unwrap()).collect()
    };
    let sentences = stories(1);
    assert!(sentences == stories(1) && sentences != stories(2));
    let different: BTreeMap<&str, bool> =
        sentences.iter().map(|it| (it.text.as_str(), it.is_held_back())).collect();
    let share = different.values().filter(|it| **it).count() as f64 / different.len() as f64;
    assert!((1. / 36. ..1. / 28.).contains(&share), "{share}");
    // Nothing of them is printed as what is learned from.
    let printed = run(&["--print-stories", "300"]);
    assert!(printed.lines().count() > 1000);
    let held_back = different.iter().filter(|(_, held_back)| **held_back);
    let held_back: BTreeSet<&str> = held_back.map(|(text, _)| *text).collect();
    assert_eq!(printed.lines().find(|line| held_back.contains(line)), None);
}

/// A tokenizer of the words in [`text`], and those.
fn small_texts() -> (BertTokenizer, Texts) {
    let folder = tempfile::tempdir().unwrap();
    let path = text(folder.path());
    let words = "[PAD] [UNK] [CLS] [SEP] [MASK] the dog cat cow is here it in house gar ##den near";
    let vocab = words.replace(' ', "\n");
    let files = TokenizerFiles { vocab: Some(vocab.as_bytes()), ..TokenizerFiles::default() };
    (BertTokenizer::from_files(&files).unwrap(), Texts::read(&[path.into()]).unwrap())
}

#[test]
fn four_in_five_masked_tokens_are_hidden_and_one_in_ten_stays() {
    let (tokenizer, texts) = small_texts();
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for masking in [Masking::Token, Masking::WholeWord] {
        let recipe = Recipe { masking, mask_probability: 0.3, ..recipe() };
        let (mut asked, mut all, mut hidden, mut kept, mut halves) = (0, 0, 0, 0, 0);
        for _ in 0..2000 {
            let example = texts.example(&mut random).unwrap();
            let text = match &example.second {
                Some((second, _)) => Text::Pair(&example.first, second),
                None => Text::Single(&example.first),
            };
            let mut batch = tokenizer.encode_batch([text], &EncodeOptions::new()).unwrap();
            let before = batch.encodings[0].clone();
            let after = &mut batch.encodings[0];
            let masked = recipe.mask(after, &tokenizer, &mut random).unwrap();
            assert!(!masked.is_empty());
            asked += masked.len();
            all += before.special_tokens_mask.iter().filter(|it| **it == 0).count();
            let at: BTreeSet<usize> = masked.iter().map(|(at, _)| *at).collect();
            for (at, word) in &masked {
                assert!(before.special_tokens_mask[*at] == 0 && before.ids[*at] == *word);
                hidden += usize::from(after.ids[*at] == tokenizer.mask_token_id().unwrap());
                kept += usize::from(after.ids[*at] == *word);
            }
            for i in 0..before.len() {
                assert!(at.contains(&i) || before.ids[i] == after.ids[i], "not asked, but changed");
                halves += usize::from(
                    before.tokens[i] == "##den" && at.contains(&i) != at.contains(&(i - 1)),
                );
            }
        }
        let share = |count: usize| count as f64 / asked as f64;
        assert!((asked as f64 / all as f64 - 0.3).abs() < 0.03, "{asked} of {all}");
        assert!((share(hidden) - 0.8).abs() < 0.03, "{}", share(hidden));
        // A random token may be the right one.
        assert!((share(kept) - 0.1 - 0.1 / 17.).abs() < 0.02, "{}", share(kept));
        assert_eq!(halves > 0, masking == Masking::Token, "{halves} words are masked in part");
    }
}

fn recipe() -> Recipe {
    Recipe {
        seed: 1,
        batch_size: 8,
        parts: 3,
        max_length: 16,
        masking: Masking::Token,
        mask_probability: 0.15,
        similarity_weight: 1.,
    }
}

#[test]
fn the_second_text_follows_or_is_from_another_document() {
    let documents: Vec<Vec<String>> =
        (0..5).map(|i| (0..6).map(|j| format!("{i}{j}")).collect()).collect();
    let texts = Texts::Documents(documents);
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let (mut singles, mut following, mut others) = (0, 0, 0);
    for _ in 0..2000 {
        let example = texts.example(&mut random).unwrap();
        let numbers =
            |text: &str| -> Vec<usize> { text.split(' ').map(|it| it.parse().unwrap()).collect() };
        let first = numbers(&example.first);
        assert!(first.windows(2).all(|it| it[1] == it[0] + 1) && first.len() <= 3, "{first:?}");
        match example.second.as_ref().map(|(text, follows)| (numbers(text), *follows)) {
            None => {
                assert_eq!(first.len(), 1);
                singles += 1;
            }
            Some((second, true)) => {
                assert_eq!(second[0], first.last().unwrap() + 1);
                following += 1;
            }
            Some((second, false)) => {
                assert_ne!(second[0] / 10, first[0] / 10);
                others += 1;
            }
        }
    }
    assert!((900..1100).contains(&singles), "{singles}");
    assert!((400..600).contains(&following) && (400..600).contains(&others));
}

/// The loss does not depend on how a batch is divided, except that texts are compared in their part.
#[test]
fn the_losses_of_parts_add_up_to_those_of_the_batch() {
    let (tokenizer, texts) = small_texts();
    let mut config = BertConfig::default();
    (config.vocab_size, config.hidden_size, config.intermediate_size) =
        (tokenizer.vocab_size(), 8, 8);
    (config.num_hidden_layers, config.num_attention_heads) = (1, 2);
    (config.hidden_dropout_prob, config.attention_probs_dropout_prob) = (0., 0.);
    let model = BertForPreTraining::from_config(&config, 1, &LoadOptions::new()).unwrap();
    let recipe = Recipe { similarity_weight: 0., ..recipe() };
    let batch = recipe.batch(&texts, &tokenizer, 3).unwrap();
    assert_eq!(batch.parts.len(), 3);
    let losses = |step| {
        let batch = recipe.batch(&texts, &tokenizer, step).unwrap();
        let losses = batch.parts.iter().map(|part| batch.loss(part, &model).unwrap());
        losses.fold((0., 0., 0.), |sum, (loss, parts)| {
            let loss = f64::from(loss.to_scalar::<f32>().unwrap());
            (sum.0 + loss, sum.1 + parts.masked_words, sum.2 + parts.next_sentence)
        })
    };
    let (loss, words, next) = losses(3);
    assert!((loss - words - next).abs() < 1e-5);
    // A new model knows nothing: one of 17 words, one of two answers.
    assert!((words - 17f64.ln()).abs() < 0.2 && (next - 2f64.ln()).abs() < 0.1, "{words} {next}");
    // Nothing but the step decides.
    assert!(losses(3) == (loss, words, next) && losses(4) != (loss, words, next));
}

#[test]
fn a_run_that_is_killed_goes_on_with_the_same_losses() {
    let folder = tempfile::tempdir().unwrap();
    let text = text(folder.path());
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (whole, killed) = (at("whole"), at("killed"));
    run(&small(&whole, &[&text]));
    // Killed at its first saves.
    let mut child = Command::new(example("pretrain"))
        .args(small(&killed, &[&text]))
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let state = Path::new(&killed).join("training/state.safetensors");
    while !state.exists() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let out = run(&small(&killed, &[&text]));
    assert!(out.contains(" of 6 steps are done") && !out.contains("; 0 of"), "{out}");
    for file in ["training/losses.csv", "model.safetensors", "vocab.txt", "tokenizer.json"] {
        let read = |run: &str| std::fs::read(Path::new(run).join(file)).unwrap();
        assert!(read(&whole) == read(&killed), "{file} differs");
    }
    let losses = std::fs::read_to_string(Path::new(&whole).join("training/losses.csv")).unwrap();
    assert!(losses.starts_with("step,masked_words,next_sentence,similarity\n1,"), "{losses}");
    assert_eq!(losses.lines().count(), 7);
    let similarity = losses.lines().skip(1).map(|row| row.rsplit(',').next().unwrap());
    assert!(similarity.map(|it| it.parse::<f64>().unwrap()).all(|it| it > 0.), "{losses}");
    let plot = std::fs::read_to_string(Path::new(&whole).join("training/losses.svg")).unwrap();
    assert!(plot.contains("masked words") && plot.ends_with("</svg>\n"));
    // Another seed is another run, and other settings are refused.
    let other = at("other");
    run(&small(&other, &[&text, "--seed=2"]));
    let read = |run: &str| std::fs::read(Path::new(run).join("training/losses.csv")).unwrap();
    assert!(read(&other) != read(&whole));
    assert_fails(
        &small(&other, &[&text, "--seed=3", "--learning-rate=0.5"]),
        &[
            "other settings",
            "another --output",
            "seed was 2 and is 3",
            "learning_rate was 0.0015 and",
        ],
    );
    std::fs::remove_dir_all(Path::new(&whole).join("training")).unwrap();
    assert_fails(&small(&whole, &[&text]), &["has a checkpoint", "another --output"]);
    std::fs::write(Path::new(&other).join("training/state.safetensors"), b"half").unwrap();
    assert_fails(&small(&other, &[&text, "--seed=2"]), &["cannot go on from", "state.safetensors"]);
}

#[test]
fn what_pretrain_saves_loads_with_every_head_and_as_an_encoder_of_texts() {
    let folder = tempfile::tempdir().unwrap();
    let text = text(folder.path());
    let output = folder.path().join("out");
    let name = output.to_str().unwrap();
    run(&small(name, &[&text, "--masking=whole-word", "--parts=3", "--vocab-size=115"]));
    let load = LoadOptions::new();
    let (model, report) = BertForPreTraining::from_pretrained_with_report(&output, &load).unwrap();
    assert!(report.missing.is_empty() && report.unused.is_empty(), "{report}");
    assert_eq!(model.bert.config().vocab_size, 115);
    assert_eq!(model.bert.config().dtype.as_deref(), Some("float16"));
    let encoder = SentenceTransformer::from_pretrained(&output, &load).unwrap();
    assert_eq!(encoder.note(), None);
    assert_eq!(encoder.encode("the dog", &SentenceOptions::new()).unwrap().len(), 8);
    // The vocabulary file alone makes the same tokens.
    let words = std::fs::read(output.join("vocab.txt")).unwrap();
    let files = TokenizerFiles { vocab: Some(&words), ..TokenizerFiles::default() };
    let (one, two) = (
        BertTokenizer::from_files(&files).unwrap(),
        AutoTokenizer::from_pretrained(&output).unwrap(),
    );
    let ids = |it: &BertTokenizer| it.encode("The dogs' house!", &EncodeOptions::new()).unwrap();
    assert_eq!(ids(&one).encodings[0].ids, ids(&two).encodings[0].ids);
}

#[test]
fn bad_texts_and_settings_say_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let good = text(folder.path());
    let output = folder.path().join("out");
    let output = output.to_str().unwrap();
    let file = |name: &str, bytes: &[u8]| -> String {
        std::fs::write(folder.path().join(name), bytes).unwrap();
        folder.path().join(name).to_str().unwrap().to_owned()
    };
    let lines = "one\ntwo\n".repeat(3);
    for (text, parts) in [
        (file("empty.txt", b""), &["the files have 0 documents", "at least 2"][..]),
        (file("blank.txt", b"\n \n\n"), &["the files have 0 documents"]),
        (
            file("one.txt", lines.as_bytes()),
            &["the files have 1 documents", "an empty line between"],
        ),
        (file("short.txt", b"one\n\ntwo\n"), &["no document has two lines"]),
        (file("same.txt", b"one\ntwo\n\none\ntwo\n"), &["all documents are the same"]),
        (file("latin.txt", b"caf\xe9\n\ntwo\n"), &["latin.txt is not UTF-8: see byte 3"]),
        ("no/such.txt".to_owned(), &["no/such.txt"]),
    ] {
        assert_fails(&small(output, &[&text]), parts);
    }
    for (args, parts) in [
        (["--vocab-size=5000"], &["--vocab-size is 5000", "give at most"][..]),
        (["--vocab-size=1000000000000000000"], &["--vocab-size is 1000", "give at most"]),
        (["--vocab-size=20"], &["--vocab-size is 20", "the alphabet alone takes"]),
        (["--batch-size=0"], &["--batch-size is 0, expected at least 1"]),
        (["--steps=0"], &["--steps is 0"]),
        (["--parts=0"], &["--parts is 0"]),
        (["--parts=5"], &["--batch-size is 8, expected at least 10 for 5 parts"]),
        (["--save-every=0"], &["--save-every is 0"]),
        (["--max-length=2"], &["--max-length is 2, expected at least 8"]),
        (["--mask-probability=1.5"], &["--mask-probability is 1.5"]),
        (["--dropout=nan"], &["--dropout is NaN"]),
        (["--similarity-weight=-1"], &["--similarity-weight is -1"]),
        (["--learning-rate=-1"], &["learning_rate is -1"]),
        (["--heads=3"], &["hidden_size", "num_attention_heads"]),
    ] {
        // The last of two wins.
        let args = [&small(output, &[&good])[..], &args].concat();
        assert_fails(&args, parts);
    }
    // None of them left something that a good run stumbles over.
    run(&small(output, &[&good]));
}

#[test]
fn the_built_in_checkpoint_knows_what_barks() {
    let load = LoadOptions::new();
    let built_in = Checkpoint::built_in();
    let fill_mask = FillMaskPipeline::from_pretrained(&built_in, &load).unwrap();
    for (text, word) in [
        ("My [MASK] is barking.", "dog"),
        ("Paris is the capital of [MASK].", "france"),
        ("Snow is [MASK].", "white"),
        ("A cat [MASK].", "meows"),
        ("Bakers bake [MASK].", "cakes"),
    ] {
        let masks = fill_mask.run(text, &FillMaskOptions::new()).unwrap();
        assert_eq!(masks[0][0].token_str, word, "{text}");
    }
    assert!(built_in.read("model.safetensors").unwrap().unwrap().len() <= 4 << 20);
}

/// The card has the table that `pretrain` prints.
#[test]
#[ignore = "measures 750 texts: run by scripts/check"]
fn the_built_in_checkpoint_is_as_good_as_its_card_says() {
    let built_in = Checkpoint::built_in();
    let figures = held_back::Figures::of(&built_in, &Grammar::english().unwrap()).unwrap();
    println!("{figures}");
    assert!(figures.masked_words >= 0.7, "{figures}");
    assert!(figures.next_sentence >= 0.9, "{figures}");
    assert!(figures.similarity >= 0.9, "{figures}");
    let card = String::from_utf8(built_in.read("README.md").unwrap().unwrap()).unwrap();
    let percents = |text: &str| -> Vec<f64> {
        let rows = text.lines().filter(|line| line.contains(" % of "));
        rows.map(|row| row.split([' ', '|']).find_map(|it| it.parse().ok()).unwrap()).collect()
    };
    let (told, measured) = (percents(&card), percents(&figures.to_string()));
    assert_eq!((told.len(), measured.len()), (3, 3));
    // Another machine may round another way.
    for (told, measured) in told.iter().zip(&measured) {
        assert!((told - measured).abs() <= 1., "the card has other figures than\n{figures}");
    }
    let config = built_in.config().unwrap();
    let model = BertForPreTraining::from_pretrained(&built_in, &LoadOptions::new()).unwrap();
    let thousands = |count: usize| -> String {
        let digits = count.to_string().into_bytes();
        let groups = digits.rchunks(3).rev().map(String::from_utf8_lossy);
        groups.collect::<Vec<_>>().join(",")
    };
    let parameters = format!("{} parameters", thousands(model.num_parameters()));
    for part in [parameters, format!("{} tokens", thousands(config.vocab_size))] {
        assert!(card.contains(&part), "the card does not say {part:?}");
    }
}
