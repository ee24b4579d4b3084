//! A text has the same numbers whatever else is in its batch.

use bert::*;

use crate::support::*;

const ROWS: [&[u32]; 4] = [&[5, 9, 2, 41, 7], &[3], &[8, 8, 1, 30, 30, 12, 6, 2], &[11, 4, 59]];

/// Runs the rows padded with `pad` to `length`; returns each row's real tokens and pooled output.
fn run(model: &BertModel, rows: &[&[u32]], length: usize, pad: u32) -> Vec<(Tensor, Tensor)> {
    let padded = |fill: fn(u32, usize, usize) -> u32| -> Tensor {
        let values: Vec<u32> = rows
            .iter()
            .flat_map(|row| {
                (0..length).map(move |i| fill(row.get(i).copied().unwrap_or(0), i, row.len()))
            })
            .collect();
        Tensor::from_vec(values, (rows.len(), length), &device()).unwrap()
    };
    let ids = padded(|id, _, _| id);
    let mask = padded(|_, i, len| u32::from(i < len));
    let pads = ((mask.ones_like().unwrap() - &mask).unwrap()
        * Tensor::full(pad, mask.shape(), &device()).unwrap())
    .unwrap();
    let input = BertInput::from_ids((ids + pads).unwrap()).with_attention_mask(mask);
    let output = model.forward(&input).unwrap();
    let pooled = output.pooler_output.unwrap();
    rows.iter()
        .enumerate()
        .map(|(i, row)| {
            let states = output.last_hidden_state.get(i).unwrap().narrow(0, 0, row.len()).unwrap();
            (states, pooled.get(i).unwrap())
        })
        .collect()
}

fn alone(model: &BertModel) -> Vec<(Tensor, Tensor)> {
    ROWS.iter().map(|row| run(model, &[*row], row.len(), 0).remove(0)).collect()
}

fn assert_all_close(got: &[(Tensor, Tensor)], expected: &[(Tensor, Tensor)]) {
    for (row, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert_close(&format!("states of text {row}"), &got.0, &expected.0, 5e-6);
        assert_close(&format!("pooled output of text {row}"), &got.1, &expected.1, 5e-6);
    }
}

#[test]
fn padding_does_not_change_real_tokens() {
    let model = model("base", DType::F32);
    for length in [8, 13, 24] {
        assert_all_close(&run(&model, &ROWS, length, 0), &alone(&model));
    }
}

#[test]
fn what_stands_under_the_padding_does_not_matter() {
    let model = model("base", DType::F32);
    for ((got, pooled), (expected, expected_pooled)) in
        run(&model, &ROWS, 10, 59).iter().zip(&run(&model, &ROWS, 10, 0))
    {
        assert_same("states", got, expected);
        assert_same("pooled", pooled, expected_pooled);
    }
}

#[test]
fn neighbors_and_their_order_do_not_matter() {
    let model = model("base", DType::F32);
    let reversed: Vec<&[u32]> = ROWS.iter().rev().copied().collect();
    let mut got = run(&model, &reversed, 8, 0);
    got.reverse();
    assert_all_close(&got, &run(&model, &ROWS, 8, 0));
    assert_all_close(
        &run(&model, &[ROWS[2], ROWS[2], ROWS[2]], 8, 0),
        &vec![alone(&model).remove(2); 3],
    );
}
