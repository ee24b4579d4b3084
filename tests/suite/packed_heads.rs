//! Models with a head on packed sequences.

use bert::errors::ModelError;
use bert::*;

use crate::support::*;

const LENGTHS: [usize; 4] = [5, 1, 9, 3];

fn texts() -> Vec<Vec<u32>> {
    let text = |(row, length)| (0..length).map(|i| ((5 * row + 7 * i) % 37) as u32 + 1).collect();
    LENGTHS.into_iter().enumerate().map(text).collect()
}

fn packed() -> PackedInput {
    let ids = Tensor::new(texts().concat(), &device()).unwrap();
    let starts = (0..=LENGTHS.len()).map(|row| LENGTHS[..row].iter().sum());
    PackedInput::new(ids, starts.collect())
}

/// Compares a packed pass with one pass for each text. `scores` are those of an output, by token if
/// `by_token`.
fn check<M: Head + PreTrainedModel>(
    folder: &str,
    by_token: bool,
    scores: impl Fn(&M::Output) -> Tensor,
) -> M {
    let model = M::from_pretrained(fixture(folder).as_path(), &load_options()).unwrap();
    let got = scores(&model.forward_packed(&packed()).unwrap());
    for (row, text) in texts().iter().enumerate() {
        let alone = scores(&model.forward(&BertInput::from_ids(ids(&[text]))).unwrap());
        let at = if by_token { LENGTHS[..row].iter().sum() } else { row };
        let count = if by_token { text.len() } else { 1 };
        let expected = if by_token { alone.squeeze(0).unwrap() } else { alone };
        assert_close(folder, &got.narrow(0, at, count).unwrap(), &expected, 1e-5);
    }
    model
}

#[test]
fn every_head_has_the_scores_of_each_text_alone() {
    check::<BertForSequenceClassification>("heads/sequence_classification", false, |output| {
        output.logits.clone()
    });
    check::<BertForNextSentencePrediction>("heads/next_sentence", false, |it| it.logits.clone());
    check::<BertForTokenClassification>("heads/token_classification", true, |it| it.logits.clone());
    check::<BertForQuestionAnswering>("heads/question_answering", true, |it| it.end_logits.clone());
    check::<BertForPreTraining>("heads/pretraining", true, |it| it.prediction_logits.clone());
    check::<BertForPreTraining>("heads/pretraining", false, |it| {
        it.seq_relationship_logits.clone()
    });
    check::<BertLMHeadModel>("heads/lm", true, |it| it.logits.clone());
    let model = check::<BertForMaskedLM>("heads/masked_lm", true, |it| it.logits.clone());

    let all = model.forward_packed(&packed()).unwrap().logits;
    let some = model.scores_at_packed(&packed(), &[16, 0, 5]).unwrap();
    let rows = Tensor::new(&[16u32, 0, 5], &device()).unwrap();
    assert_close("some rows", &some, &all.index_select(&rows, 0).unwrap(), 1e-5);
    assert_eq!(model.scores_at_packed(&packed(), &[]).unwrap().dims(), [0, all.dims()[1]]);
    let error = model.scores_at_packed(&packed(), &[18]).unwrap_err();
    assert!(matches!(error, ModelError::NoSuchPosition { got: (0, 18), .. }), "{error}");
}

#[test]
fn first_tokens_and_pooled_outputs_are_those_of_all_states() {
    let model = model("base", DType::F32);
    let all = model.forward_packed(&packed()).unwrap();
    let first = Tensor::new(&[0u32, 5, 6, 15], &device()).unwrap();
    let first = all.last_hidden_state.index_select(&first, 0).unwrap();
    assert_close("first", &model.first_tokens_packed(&packed()).unwrap(), &first, 1e-5);
    let pooled = model.pooled_packed(&packed()).unwrap();
    assert_close("pooled", &pooled, &all.pooler_output.unwrap(), 1e-5);
}

#[test]
fn packed_choices_are_refused() {
    let folder = fixture("heads/multiple_choice");
    let model = BertForMultipleChoice::from_pretrained(folder.as_path(), &load_options()).unwrap();
    let error = model.forward_packed(&packed()).unwrap_err();
    assert!(matches!(error, ModelError::PackedChoices), "{error}");
}
