//! Losses, with PyTorch's definitions.

use bert_kernels::widen;
use candle_core::{D, DType, Device, Tensor};
use candle_nn::ops::log_softmax;

use crate::error::{Error, Result};

/// The label that takes no part in a loss. Hugging Face and PyTorch: `ignore_index`.
pub(crate) const IGNORED: i64 = -100;

/// The number of labels over which a loss is a mean: of class ids those that are not −100, otherwise all.
///
/// The loss of a [`BertLMHeadModel`](crate::BertLMHeadModel) leaves out the first label of each row: pass
/// `labels.narrow(1, 1, S − 1)`. Those of [`BertForPreTraining`](crate::BertForPreTraining) and
/// [`BertForQuestionAnswering`](crate::BertForQuestionAnswering) are two means: one number counts for both
/// only if the parts of a batch have the same share of each.
///
/// # Errors
/// When Candle cannot copy them.
pub fn counted_labels(labels: &Tensor) -> Result<usize> {
    if !labels.dtype().is_int() {
        return Ok(labels.elem_count());
    }
    let ids = labels.to_device(&Device::Cpu)?.to_dtype(DType::I64)?.flatten_all()?;
    Ok(ids.to_vec1::<i64>()?.into_iter().filter(|id| *id != IGNORED).count())
}

/// Mean of `−ln softmax(logits)[label]` over the labels that are not `ignored`.
///
/// `logits`: `[M, C]`; `labels`: M class ids → a scalar, F32 for half precision. PyTorch:
/// `CrossEntropyLoss`, which gives NaN where every label is ignored; here that is an error.
pub(crate) fn cross_entropy(logits: &Tensor, labels: &[i64], ignored: i64) -> Result<Tensor> {
    let (_, classes) = logits.dims2()?;
    let (mut rows, mut targets) = (Vec::new(), Vec::new());
    for (at, &got) in labels.iter().enumerate().filter(|(_, label)| **label != ignored) {
        if !(0..classes as i64).contains(&got) {
            return Err(Error::LabelOutOfRange { got, at, classes, ignored });
        }
        rows.push(at as u32);
        targets.push(got as u32);
    }
    if rows.is_empty() {
        return Err(Error::NoLabels { ignored });
    }
    let device = logits.device();
    let targets = Tensor::new(targets, device)?.unsqueeze(1)?; // [M, 1]
    let rows = Tensor::new(rows, device)?;
    let logits = widen(&logits.contiguous()?.index_select(&rows, 0)?)?;
    Ok(log_softmax(&logits, D::Minus1)?.gather(&targets, 1)?.neg()?.mean_all()?)
}

/// [`cross_entropy`] of scores and class ids of one leading shape, −100 for labels that do not count.
///
/// `logits`: `[…, C]`; `labels`: `[…]`, of an integer dtype → a scalar.
pub(crate) fn classification(
    logits: &Tensor,
    name: &'static str,
    labels: &Tensor,
) -> Result<Tensor> {
    let labels = class_ids(name, labels, &logits.dims()[..logits.rank() - 1])?;
    cross_entropy(&logits.flatten_to(logits.rank() - 2)?, &labels, IGNORED)
}

/// Mean of `(logits − labels)²`. Both of one shape. PyTorch: `MSELoss`.
pub(crate) fn mean_squared_error(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let logits = widen(logits)?;
    let labels = labels.to_device(logits.device())?.to_dtype(logits.dtype())?;
    Ok((&logits - labels)?.sqr()?.mean_all()?)
}

/// Mean of `−(y ln σ(x) + (1 − y) ln(1 − σ(x)))`. Both of one shape. PyTorch:
/// `BCEWithLogitsLoss`.
pub(crate) fn binary_cross_entropy(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let logits = widen(logits)?;
    let labels = labels.to_device(logits.device())?.to_dtype(logits.dtype())?;
    // max(x, 0) − x y + ln(1 + e^−|x|) never overflows.
    let tail = (logits.abs()?.neg()?.exp()? + 1.)?.log()?;
    Ok(((logits.relu()? - (&logits * labels)?)? + tail)?.mean_all()?)
}

/// Class ids from a tensor of an integer dtype that has `shape`, or `shape` and a last dimension of
/// 1, row by row.
pub(crate) fn class_ids(name: &'static str, labels: &Tensor, shape: &[usize]) -> Result<Vec<i64>> {
    if labels.dims() != [shape, &[1]].concat() {
        check_shape(name, labels, shape)?;
    }
    if !labels.dtype().is_int() {
        return Err(Error::dtype(name, labels, "an integer dtype, for class ids"));
    }
    let labels = labels.to_device(&Device::Cpu)?.to_dtype(DType::I64)?;
    Ok(labels.flatten_all()?.to_vec1()?)
}

/// Checks that labels have a shape.
pub(crate) fn check_shape(name: &'static str, labels: &Tensor, shape: &[usize]) -> Result<()> {
    match labels.dims() == shape {
        true => Ok(()),
        false => Err(Error::shape(name, labels, format!("{shape:?}"))),
    }
}
