//! What can be done with the parameters of every model: counted, trained, frozen, replaced, pruned.

use std::collections::{BTreeMap, HashMap};
use std::sync::PoisonError;

use bert_kernels::WeightForm;
use candle_core::{Tensor, Var};
use candle_nn::VarMap;

use crate::config::BertConfig;
use crate::error::{Error, Result};
use crate::heads::lm_prediction_head::{BertLMPredictionHead, resized};
use crate::model::BertModel;
use crate::named::{Named, Parameter, is_trained, refuse_trained};

/// A whole model: a [`BertModel`], alone or below a head.
pub trait Model: Named + Sized {
    /// The model below the head, or the model itself.
    fn bert(&self) -> &BertModel;

    /// The model below the head, or the model itself, to be changed.
    fn bert_mut(&mut self) -> &mut BertModel;

    /// The head over the vocabulary, if the model has one.
    fn predictions(&self) -> Option<&BertLMPredictionHead> {
        None
    }

    /// The head over the vocabulary, to be changed.
    fn predictions_mut(&mut self) -> Option<&mut BertLMPredictionHead> {
        None
    }
}

/// How [`Parameters::freeze_with`] freezes a model.
///
/// ```
/// use bert_core::{FreezeOptions, WeightForm};
///
/// let options = FreezeOptions::new().with_form(WeightForm::Unpacked);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FreezeOptions {
    /// The form of the linear maps' weights. Default: [`WeightForm::Packed`]. Unpacked weights freeze
    /// in no time and take less memory in heads over the vocabulary, but passes on the CPU are slower.
    pub form: WeightForm,
}

impl FreezeOptions {
    /// Packed weights.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`FreezeOptions::form`].
    pub fn with_form(self, form: WeightForm) -> Self {
        Self { form, ..self }
    }
}

/// What can be done with the parameters of every [`Model`].
///
/// Names are those of transformers' checkpoints: they begin with `bert.` if the model has a head. A
/// decoder that is tied to the word embeddings is not a parameter of its own.
pub trait Parameters: Model {
    /// The model's configuration.
    fn config(&self) -> &BertConfig {
        self.bert().config()
    }

    /// Calls `visit` with the name and the value of every parameter, in the order of the forward pass.
    ///
    /// # Errors
    /// What `visit` returns.
    fn for_each_parameter(
        &self,
        mut visit: impl FnMut(&str, Parameter) -> Result<()>,
    ) -> Result<()> {
        self.visit("", &mut visit)
    }

    /// The number of elements of all parameters. Hugging Face: `num_parameters`.
    fn num_parameters(&self) -> usize {
        count(self, |_| true)
    }

    /// The number of elements of the parameters that are trained.
    fn num_trainable_parameters(&self) -> usize {
        count(self, |parameter| parameter.is_variable())
    }

    /// Trains the parameters whose names `chosen` accepts, and no others. Returns them.
    ///
    /// Chosen parameters become variables that the model computes with: what an optimizer writes into
    /// them takes effect at once. The others keep their values and get no gradient. Clones of a model
    /// share its variables; a clone that is frozen is a snapshot.
    ///
    /// ```
    /// use bert_core::{BertModel, Parameters};
    /// use candle_nn::VarMap;
    ///
    /// fn only_the_layers(model: &mut BertModel) -> bert_core::Result<VarMap> {
    ///     model.set_trainable(|name| name.starts_with("encoder."))
    /// }
    /// ```
    ///
    /// # Errors
    /// When there is no memory for the variables.
    fn set_trainable(&mut self, mut chosen: impl FnMut(&str) -> bool) -> Result<VarMap> {
        let vars = VarMap::new();
        convert_decoder(self, Some(WeightForm::Unpacked))?;
        self.convert(WeightForm::Unpacked)?;
        self.replace("", &mut |name, parameter| {
            if chosen(name) {
                let var = Var::from_tensor(&parameter.tensor()?)?;
                let tensor = var.as_tensor().clone();
                let mut vars = vars.data().lock().unwrap_or_else(PoisonError::into_inner);
                vars.insert(name.to_owned(), var);
                return Ok(Some(tensor));
            }
            parameter.needs_gradient().then(|| untracked(parameter.tensor()?)).transpose()
        })?;
        Ok(vars)
    }

    /// Prepares the model for inference: detaches its parameters from variables and packs the
    /// matrices for the CPU's kernels. Outputs do not change, and later changes of the variables have
    /// no effect. `from_pretrained` returns frozen models.
    ///
    /// A decoder over the vocabulary is packed as a copy, because
    /// [`get_output_embeddings`](Parameters::get_output_embeddings) lends the matrix itself: 4 V H
    /// bytes, 94 MB in bert-base. Replace that matrix with the `set_` functions; what is written into
    /// the tensor itself has no effect on a frozen model.
    ///
    /// # Errors
    /// When there is no memory for the parameters.
    fn freeze(&mut self) -> Result<()> {
        self.freeze_with(&FreezeOptions::new())
    }

    /// [`Parameters::freeze`] with options.
    ///
    /// # Errors
    /// As [`Parameters::freeze`].
    fn freeze_with(&mut self, options: &FreezeOptions) -> Result<()> {
        if is_trained(self) {
            self.set_trainable(|_| false)?;
        }
        self.convert(options.form)?;
        convert_decoder(self, Some(options.form))?;
        // A GPU is done: other threads, whose work may be in other streams, can use the model.
        Ok(self.bert().device().synchronize()?)
    }

    /// Replaces parameters by name, for example to merge adapters or to average checkpoints. Weights
    /// keep their form, so a frozen model stays fast.
    ///
    /// # Errors
    /// [`Error::NoSuchParameter`] for an unknown name; [`Error::Shape`], [`Error::DType`] or
    /// [`Error::Device`] for a tensor that does not fit; [`Error::Trainable`] while the model trains.
    /// The model is then unchanged.
    fn replace_parameters(&mut self, values: &HashMap<String, Tensor>) -> Result<()> {
        refuse_trained(self, "replace_parameters")?;
        let device = self.bert().device().clone();
        let mut known = Vec::new();
        self.visit("", &mut |name, parameter| {
            known.push(name.to_owned());
            let Some(value) = values.get(name) else { return Ok(()) };
            parameter.check_replacement(name, value)?;
            Error::check_device("a new parameter", value, &device)
        })?;
        if let Some(got) = values.keys().find(|name| !known.contains(name)).cloned() {
            return Err(Error::NoSuchParameter { got, known });
        }
        self.replace("", &mut |name, _| values.get(name).cloned().map(untracked).transpose())?;
        convert_decoder(self, None)
    }

    /// The word embeddings: `[V, H]`. Hugging Face: `get_input_embeddings`.
    fn get_input_embeddings(&self) -> &Tensor {
        self.bert().embeddings.word_embeddings()
    }

    /// Replaces the word embeddings: `[V, H]`. A tied decoder follows. Hugging Face:
    /// `set_input_embeddings`.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::DType`] or [`Error::Device`] for a table that does not fit;
    /// [`Error::Trainable`] while the model trains.
    fn set_input_embeddings(&mut self, table: Tensor) -> Result<()> {
        refuse_trained(self, "set_input_embeddings")?;
        check_table("input embeddings", &table, self.get_input_embeddings())?;
        let padding = self.config().padding_row();
        self.bert_mut().embeddings.set_word_embeddings(untracked(table)?, padding);
        convert_decoder(self, None)
    }

    /// The matrix of the decoder over the vocabulary, `[V, H]`: the word embeddings if it is tied to
    /// them. `None` for models without such a head. Hugging Face: `get_output_embeddings`.
    fn get_output_embeddings(&self) -> Option<&Tensor> {
        self.predictions().map(|head| head.decoder(self.get_input_embeddings()))
    }

    /// Whether the decoder over the vocabulary is the word embeddings. `false` for models without
    /// such a head.
    fn has_tied_decoder(&self) -> bool {
        self.predictions().is_some_and(BertLMPredictionHead::is_tied)
    }

    /// Gives the head over the vocabulary a decoder of its own: `[V, H]`. It is no longer tied to the
    /// word embeddings. Hugging Face: `set_output_embeddings`.
    ///
    /// # Errors
    /// [`Error::NoDecoder`] for a model without such a head, and as
    /// [`Parameters::set_input_embeddings`].
    fn set_output_embeddings(&mut self, decoder: Tensor) -> Result<()> {
        refuse_trained(self, "set_output_embeddings")?;
        check_table("output embeddings", &decoder, self.get_input_embeddings())?;
        let head = self.predictions_mut().ok_or(Error::NoDecoder)?;
        head.set_decoder(untracked(decoder)?);
        self.bert_mut().config_mut().tie_word_embeddings = false;
        convert_decoder(self, None)
    }

    /// Changes the size of the vocabulary. New words get the mean of the old embeddings (Hewitt
    /// 2021), as in transformers except for its noise with a variance of 10⁻⁹. The decoder, tied or
    /// not, and its bias follow. Hugging Face: `resize_token_embeddings`.
    ///
    /// # Errors
    /// [`Error::Config`] when no word or no padding token would be left; [`Error::Trainable`] while
    /// the model trains.
    fn resize_token_embeddings(&mut self, words: usize) -> Result<()> {
        refuse_trained(self, "resize_token_embeddings")?;
        let mut config = self.config().clone();
        // A negative id counts from the end, which moves.
        config.pad_token_id = config.padding_row().map(i64::from);
        config.vocab_size = words;
        config.validate()?;
        let table = resized(self.get_input_embeddings(), words)?;
        let head = self.predictions().map(|head| head.resized(words)).transpose()?;
        if let (Some(head), Some(old)) = (head, self.predictions_mut()) {
            *old = head;
        }
        self.bert_mut().embeddings.set_word_embeddings(table, config.padding_row());
        *self.bert_mut().config_mut() = config;
        convert_decoder(self, None)
    }
}

impl<M: Model> Parameters for M {}

impl Model for BertModel {
    fn bert(&self) -> &BertModel {
        self
    }

    fn bert_mut(&mut self) -> &mut BertModel {
        self
    }
}

impl BertModel {
    /// Removes heads of self-attention: the indices of the heads to remove, by layer. The remaining
    /// heads compute what they would with a head mask, in less time; cross-attention keeps all heads.
    /// Heads that are already removed may be named again. Hugging Face: `prune_heads`, until version
    /// 4.
    ///
    /// # Errors
    /// [`Error::Prune`] for a layer or head that does not exist, or when a layer would have no heads,
    /// and [`Error::Trainable`] while the model trains. The model is then unchanged.
    pub fn prune_heads(&mut self, heads: &BTreeMap<usize, Vec<usize>>) -> Result<()> {
        refuse_trained(self, "prune_heads")?;
        let n = self.config().num_attention_heads;
        let mut kept = Vec::new();
        for (&layer, pruned) in heads {
            let refuse = |reason| Err(Error::Prune { layer, heads: pruned.clone(), reason });
            let Some(present) = self.encoder.layer.get(layer).map(|layer| layer.heads()) else {
                return refuse(format!("the model has {} layers", self.encoder.layer.len()));
            };
            if pruned.iter().any(|head| *head >= n) {
                return refuse(format!("a layer has {n} heads"));
            }
            let mut left = present.to_vec();
            left.retain(|head| !pruned.contains(&(*head as usize)));
            if left.is_empty() {
                return refuse("no head would be left".to_owned());
            }
            kept.push((layer, left));
        }
        for (layer, left) in kept {
            self.encoder.layer[layer].keep_heads(&left)?;
        }
        self.config_mut().pruned_heads = self.pruned_heads();
        Ok(())
    }

    /// The heads that each layer lacks, by the layers' present numbers. Hugging Face: `pruned_heads`.
    pub fn pruned_heads(&self) -> BTreeMap<usize, Vec<usize>> {
        let n = self.config().num_attention_heads;
        let layers = self.encoder.layer.iter().enumerate().map(|(number, layer)| {
            let present = layer.heads();
            (number, (0..n).filter(|head| !present.contains(&(*head as u32))).collect())
        });
        layers.filter(|(_, gone): &(usize, Vec<usize>)| !gone.is_empty()).collect()
    }
}

/// Converts the decoder over the vocabulary, if there is one, to a form; without a form, to the one that
/// it has, because its matrix may have changed.
fn convert_decoder(model: &mut impl Model, form: Option<WeightForm>) -> Result<()> {
    let words = model.bert().embeddings.word_embeddings().clone();
    model.predictions_mut().map_or(Ok(()), |head| head.copy_decoder(&words, form))
}

fn count(model: &impl Named, counts: fn(&Parameter) -> bool) -> usize {
    let mut count = 0;
    // Counting cannot fail.
    let _ = model.visit("", &mut |_, parameter| {
        count += if counts(&parameter) { parameter.elem_count() } else { 0 };
        Ok(())
    });
    count
}

/// Checks that a table of vectors can replace another one.
fn check_table(name: &'static str, got: &Tensor, old: &Tensor) -> Result<()> {
    if got.dims() != old.dims() {
        let expected =
            format!("{:?}; change the vocabulary with resize_token_embeddings", old.dims());
        return Err(Error::shape(name, got, expected));
    }
    Error::check_tensor(name, got, old.dtype(), old.device())
}

/// A row-major copy that belongs to no variable and no graph, and that nobody else can write to.
fn untracked(tensor: Tensor) -> Result<Tensor> {
    Ok(tensor.detach().contiguous()?.copy()?)
}
