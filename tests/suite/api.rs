//! What every public item promises, and the small conveniences of the API.

use std::collections::HashMap;
use std::error::Error as _;
use std::path::PathBuf;

use bert::errors::ModelError;
use bert::*;

use crate::support::*;

#[test]
fn every_public_type_can_be_sent_to_and_shared_with_other_threads() {
    fn check<T: Send + Sync>() {}
    check::<(Activation, AnswerSpans, AttentionMask, BertConfig, BertEmbeddings, BertEncoder)>();
    check::<(BertInput, BertLMPredictionHead, BertLayer, BertModel, BertPooler, PackedInput)>();
    check::<(BertForMaskedLM, BertForMultipleChoice, BertForNextSentencePrediction)>();
    check::<(BertForPreTraining, BertForQuestionAnswering, BertForSequenceClassification)>();
    check::<(BertForTokenClassification, BertLMHeadModel, AnyModel, Linear, KeyValueCache)>();
    check::<(BaseModelOutputWithPastAndCrossAttentions, LayerOutputs, Layers, PaddingStates)>();
    check::<(BaseModelOutputWithPoolingAndCrossAttentions, BertForPreTrainingOutput)>();
    check::<(CausalLMOutputWithCrossAttentions, MaskedLMOutput, MultipleChoiceModelOutput)>();
    check::<(NextSentencePredictorOutput, PooledOutput, QuestionAnsweringModelOutput)>();
    check::<(SequenceClassifierOutput, TokenClassifierOutput, Parameter, HeadPass)>();
    check::<(ForwardOptions, FreezeOptions, GenerationConfig, Sampling, WeightForm)>();
    check::<(PositionEmbeddingType, PreTrainingLabels, ProblemType, TokenIds)>();
    check::<(BatchEncoding, BertTokenizer, EncodeOptions, Encoding, OffsetUnit, Padding, Side)>();
    check::<(Text, TokenizerFiles, Truncation, TruncationStrategy)>();
    check::<(AdamW, AdamWOptions, Gradients, ParameterGroup, Schedule)>();
    check::<(AutoConfig, AutoModel, AutoTokenizer, Checkpoint, DownloadProgress, Error)>();
    check::<(Conversion, LoadOptions, LoadReport, Mismatch, SaveOptions)>();
    check::<(bert::errors::ModelError, bert::errors::TextError, bert::errors::TrainingError)>();
}

#[test]
fn printing_a_model_for_debugging_is_short() {
    let model = AutoModel::from_pretrained(Checkpoint::built_in(), &LoadOptions::new()).unwrap();
    let text = format!("{model:?}");
    assert!(text.len() < 20_000, "{} bytes", text.len());
    assert!(
        text.contains("Packed") && text.contains("[[128, 128], [128, 128], [128, 128]]"),
        "{text}"
    );
    let masked = BertForMaskedLM::from_pretrained(fixture("heads/masked_lm"), &LoadOptions::new());
    assert!(format!("{:?}", masked.unwrap()).len() < 20_000);
}

#[test]
fn checkpoints_are_named_by_strings_and_paths_borrowed_or_owned() {
    let path = fixture("base");
    let name = path.to_str().unwrap().to_owned();
    let size = |config: Result<BertConfig>| config.unwrap().hidden_size;
    assert_eq!(size(AutoConfig::from_pretrained(name.as_str())), 32);
    assert_eq!(size(AutoConfig::from_pretrained(&name)), 32);
    assert_eq!(size(AutoConfig::from_pretrained(name)), 32);
    assert_eq!(size(AutoConfig::from_pretrained(path.as_path())), 32);
    assert_eq!(size(AutoConfig::from_pretrained(&path)), 32);
    assert_eq!(size(AutoConfig::from_pretrained(path.clone())), 32);
    assert_eq!(size(AutoConfig::from_pretrained(Checkpoint::from_dir(&path).unwrap())), 32);
    assert!(AutoConfig::from_pretrained(PathBuf::from("no/such/folder")).is_err());
}

#[test]
fn other_files_of_a_checkpoint_are_read_by_name() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("1_Pooling")).unwrap();
    std::fs::write(folder.path().join("1_Pooling/config.json"), "{}").unwrap();
    let in_folder = Checkpoint::from_dir(folder.path()).unwrap();
    let in_memory = Checkpoint::from_bytes([("1_Pooling/config.json", b"{}" as &[u8])]);
    for checkpoint in [in_folder, in_memory] {
        assert_eq!(checkpoint.read("1_Pooling/config.json").unwrap().unwrap(), b"{}");
        assert!(checkpoint.read("modules.json").unwrap().is_none());
        for name in
            ["", "../secret", "/etc/passwd", "a/../../b", "a\\b", "./a/..", "a//b", "a/", "a/./b"]
        {
            let error = checkpoint.read(name).unwrap_err();
            assert_says(&error, &["is not the name of a file", "modules.json"]);
        }
    }
}

#[test]
fn an_option_of_the_hub_is_an_error_for_a_checkpoint_that_is_not_on_the_hub() {
    let folder = || Checkpoint::from_dir(fixture("base")).unwrap();
    for (checkpoint, option) in [
        (folder().with_revision("main"), "with_revision"),
        (folder().with_cache_dir("models"), "with_cache_dir"),
        (folder().with_endpoint("http://localhost"), "with_endpoint"),
        (folder().with_token("hf_token"), "with_token"),
        (folder().with_local_files_only(), "with_local_files_only"),
        (folder().with_progress(|_| ()), "with_progress"),
        (Checkpoint::built_in().with_revision("main"), "with_revision"),
    ] {
        let error = checkpoint.config().unwrap_err();
        assert_says(&error, &[option, "is not on the hub", "leave it out"]);
        assert!(matches!(checkpoint.read("x.json"), Err(Error::NotOnHub { .. })));
        assert!(AutoModel::from_pretrained(&checkpoint, &LoadOptions::new()).is_err());
    }
}

#[test]
fn errors_have_the_error_below_them_as_their_source() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), "[").unwrap();
    let error = AutoConfig::from_pretrained(folder.path()).unwrap_err();
    let model_error = error.source().unwrap().downcast_ref::<ModelError>().unwrap();
    assert!(model_error.source().unwrap().is::<serde_json::Error>());
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let model = model("base", DType::F32);
    let error = model.save_pretrained(&file, &SaveOptions::new()).unwrap_err();
    assert!(error.source().unwrap().is::<std::io::Error>());
}

#[test]
fn texts_are_encoded_from_slices_vectors_and_iterators() {
    let tokenizer = AutoTokenizer::from_pretrained(Checkpoint::built_in()).unwrap();
    let options = &EncodeOptions::new();
    let slice: &[&str] = &["my dog", "is cute"];
    let owned: Vec<String> = slice.iter().map(|text| (*text).to_owned()).collect();
    let expected = tokenizer.encode_batch(["my dog", "is cute"], options).unwrap();
    assert_eq!(tokenizer.encode_batch(slice, options).unwrap(), expected);
    assert_eq!(tokenizer.encode_batch(&owned, options).unwrap(), expected);
    assert_eq!(tokenizer.encode_batch(slice.iter().filter(|_| true), options).unwrap(), expected);
    assert_eq!(
        tokenizer.encode_batch(owned.iter().map(String::as_str), options).unwrap(),
        expected
    );
    let pairs = [("my dog", "is cute")];
    let owned_pairs = vec![("my dog".to_owned(), "is cute".to_owned())];
    let texts = [Text::Pair("my dog", "is cute")];
    let expected = tokenizer.encode_batch(pairs, options).unwrap();
    assert_eq!(tokenizer.encode_batch(pairs.iter(), options).unwrap(), expected);
    assert_eq!(tokenizer.encode_batch(&owned_pairs, options).unwrap(), expected);
    assert_eq!(tokenizer.encode_batch(texts.iter(), options).unwrap(), expected);
}

#[test]
fn a_tokenizer_says_its_special_tokens_and_their_ids() {
    let tokenizer = AutoTokenizer::from_pretrained(Checkpoint::built_in()).unwrap();
    assert_eq!(tokenizer.mask_token(), Some("[MASK]"));
    for (token, id) in [
        (tokenizer.cls_token(), tokenizer.cls_token_id()),
        (tokenizer.sep_token(), tokenizer.sep_token_id()),
        (tokenizer.mask_token(), tokenizer.mask_token_id()),
        (tokenizer.pad_token(), tokenizer.pad_token_id()),
        (tokenizer.unk_token(), tokenizer.unk_token_id()),
    ] {
        assert_eq!(tokenizer.token_to_id(token.unwrap()), id);
        assert!(id.is_some());
    }
    let own = AutoTokenizer::from_pretrained(fixture("tokenizers/own_specials")).unwrap();
    assert_ne!(own.cls_token(), Some("[CLS]"));
    assert_eq!(own.id_to_token(own.cls_token_id().unwrap()).as_deref(), own.cls_token());
}

#[test]
fn packed_texts_have_the_numbers_of_padded_ones() {
    let checkpoint = Checkpoint::built_in();
    let tokenizer = AutoTokenizer::from_pretrained(&checkpoint).unwrap();
    let model = AutoModel::from_pretrained(&checkpoint, &LoadOptions::new()).unwrap();
    let texts = ["my dog is cute", "hello", "the cat and the dog"];
    let plain = EncodeOptions::new();
    let left = plain.clone().with_padding(Padding::Longest).with_padding_side(Side::Left);
    let right = plain.clone().with_padding(Padding::Longest);
    for (packed, padded) in [(&plain, &right), (&right, &right), (&left, &left)] {
        let packed = tokenizer.encode_batch(texts, packed).unwrap();
        let packed = packed.to_packed(model.device()).unwrap();
        let encoded = tokenizer.encode_batch(texts, padded).unwrap();
        let input = encoded.to_input(model.device()).unwrap();
        assert_eq!(input.pad_token_id, tokenizer.pad_token_id());
        let got = model.forward_packed(&packed).unwrap().last_hidden_state;
        let expected = model.forward(&input).unwrap().last_hidden_state;
        let mut row_of_packed = 0;
        for (b, encoding) in encoded.encodings.iter().enumerate() {
            for i in (0..encoding.len()).filter(|i| encoding.attention_mask[*i] == 1) {
                let expected = expected.get(b).unwrap().get(i).unwrap();
                assert_close("state", &got.get(row_of_packed).unwrap(), &expected, 1e-5);
                row_of_packed += 1;
            }
        }
        assert_eq!(row_of_packed, got.dim(0).unwrap());
    }
    let bare = plain.without_special_tokens();
    let empty = tokenizer.encode_batch(["my", ""], &bare).unwrap();
    let error = empty.to_packed(model.device()).unwrap_err();
    assert_says(&error, &["text 1 has no tokens", "leave it out"]);
}

#[test]
fn parameters_are_replaced_by_name_and_stay_packed() {
    let name = "bert.encoder.layer.0.attention.self.key.weight";
    let folder = fixture("heads/masked_lm");
    let mut model = BertForMaskedLM::from_pretrained(&folder, &LoadOptions::new()).unwrap();
    let input = BertInput::from_ids(ids(&[&[3, 1, 5]]));
    let (before, mut weights) = (model.clone(), tensors(&folder.join("model.safetensors")));
    let new: HashMap<String, Tensor> = [name, "bert.embeddings.word_embeddings.weight"]
        .into_iter()
        .map(|name| (name.to_owned(), (&weights[name] * 2.).unwrap()))
        .collect();
    model.replace_parameters(&new).unwrap();
    weights.extend(new);
    let saved = tempfile::tempdir().unwrap();
    std::fs::copy(folder.join("config.json"), saved.path().join("config.json")).unwrap();
    candle_core::safetensors::save(&weights, saved.path().join("model.safetensors")).unwrap();
    let expected = BertForMaskedLM::from_pretrained(saved.path(), &LoadOptions::new()).unwrap();
    assert_same(
        "logits",
        &model.forward(&input).unwrap().logits,
        &expected.forward(&input).unwrap().logits,
    );
    assert_eq!(
        format!("{model:?}").matches("Packed").count(),
        format!("{before:?}").matches("Packed").count()
    );

    let unknown = HashMap::from([("no.such.weight".to_owned(), weights[name].clone())]);
    let error = model.replace_parameters(&unknown).unwrap_err();
    assert_says(
        &error,
        &["no parameter \"no.such.weight\"", "like bert.embeddings.word_embeddings.weight"],
    );
    let wrong = |tensor: Tensor| HashMap::from([(name.to_owned(), tensor)]);
    let error =
        model.replace_parameters(&wrong(Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap()));
    assert_says(&error.unwrap_err(), &["has shape [3]", name]);
    let error = model.replace_parameters(&wrong(weights[name].to_dtype(DType::F64).unwrap()));
    assert_says(&error.unwrap_err(), &["has dtype F64", "expected F32"]);
    model
        .set_trainable(|name| {
            name.ends_with("pooler.dense.bias") || name.ends_with("predictions.bias")
        })
        .unwrap();
    let error = model.replace_parameters(&wrong(weights[name].clone())).unwrap_err();
    assert!(matches!(error, ModelError::Trainable { .. }), "{error}");
}

#[test]
fn a_model_frozen_unpacked_gives_the_same_numbers() {
    let options = FreezeOptions::new().with_form(WeightForm::Unpacked);
    let load = LoadOptions::new().with_freeze_options(options);
    let folder = fixture("heads/masked_lm");
    let mut model = BertForMaskedLM::from_pretrained(&folder, &load).unwrap();
    assert!(!format!("{model:?}").contains("F32, Packed"));
    let input = BertInput::from_ids(ids(&[&[3, 1, 5]]));
    let unpacked = model.forward(&input).unwrap().logits;
    model.freeze().unwrap();
    assert!(format!("{model:?}").contains("F32, Packed"));
    assert_close("packed", &model.forward(&input).unwrap().logits, &unpacked, 1e-5);
    model.freeze_with(&options).unwrap();
    assert!(!format!("{model:?}").contains("F32, Packed"));
    assert_same("unpacked again", &model.forward(&input).unwrap().logits, &unpacked);
}

#[test]
fn layers_called_alone_are_the_encoder() {
    let model = model("base", DType::F32);
    let mask = ids(&[&[1, 1, 1, 0], &[1, 1, 1, 1]]);
    let input = BertInput::from_ids(ids(&[&[4, 5, 6, 7], &[9, 1, 2, 3]]));
    let mask = AttentionMask::new(&mask).unwrap();
    let embedded = model.embeddings.forward(&input).unwrap();
    let mut x = embedded.clone();
    for layer in &model.encoder.layer {
        x = layer.forward(&x, &mask).unwrap();
    }
    let expected = model.encoder.forward(&embedded, &mask).unwrap().last_hidden_state;
    assert_same("layers", &x, &expected);
}
