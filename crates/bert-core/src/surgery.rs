//! A model's parameters by their names in a checkpoint: counted, trained, frozen, replaced.

use std::sync::PoisonError;

use bert_kernels::{EmbeddingWeights, LayerNormWeights, LinearWeights};
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarMap;

use crate::config::BertConfig;
use crate::error::{Error, Result};
use crate::heads::lm_prediction_head::PredictionHead;
use crate::model::BertModel;

/// A parameter, where it is.
#[derive(Clone, Copy, Debug)]
pub struct Parameter<'a>(Place<'a>);

#[derive(Clone, Copy, Debug)]
enum Place<'a> {
    Tensor(&'a Tensor),
    /// The weight (0) or bias (1) of a map in packed weights.
    Packed(&'a LinearWeights, usize, usize),
}

impl Parameter<'_> {
    /// Its dimensions.
    pub fn dims(&self) -> Vec<usize> {
        match self.0 {
            Place::Tensor(tensor) => tensor.dims().to_vec(),
            Place::Packed(weights, map, 0) => weights.dims(map).to_vec(),
            Place::Packed(weights, map, _) => vec![weights.dims(map)[0]],
        }
    }

    /// The number of its elements.
    pub fn elem_count(&self) -> usize {
        self.dims().iter().product()
    }

    /// Its dtype.
    pub fn dtype(&self) -> DType {
        match self.0 {
            Place::Tensor(tensor) => tensor.dtype(),
            Place::Packed(..) => DType::F32,
        }
    }

    /// Whether it is trained.
    pub fn is_variable(&self) -> bool {
        matches!(self.0, Place::Tensor(tensor) if tensor.is_variable())
    }

    /// Its value, which a frozen model may have to unpack.
    ///
    /// # Errors
    /// When memory for it cannot be had.
    pub fn tensor(&self) -> Result<Tensor> {
        Ok(match self.0 {
            Place::Tensor(tensor) => tensor.clone(),
            Place::Packed(weights, map, which) => weights.get(map)?[which].clone(),
        })
    }
}

/// What [`Named::visit`] calls.
pub type See<'a> = dyn FnMut(&str, Parameter) -> Result<()> + 'a;
/// What [`Named::visit_mut`] calls.
pub type Change<'a> = dyn FnMut(&str, &mut Tensor) -> Result<()> + 'a;

/// A part of a model whose parameters have names.
///
/// Each parameter is visited once, in the order of the forward pass; what is tied to another one is
/// not visited.
pub trait Named {
    /// Calls `see` with the name, which begins with `at`, and the value of every parameter.
    ///
    /// # Errors
    /// What `see` returns.
    fn visit(&self, at: &str, see: &mut See) -> Result<()>;

    /// [`Named::visit`] to change them. Packed ones are unpacked.
    ///
    /// # Errors
    /// What `change` returns.
    fn visit_mut(&mut self, at: &str, change: &mut Change) -> Result<()>;

    /// Packs what can be packed for inference.
    ///
    /// # Errors
    /// When parameters do not have the shapes that they should have.
    fn pack(&mut self) -> Result<()>;
}

/// Implements [`Named`] for a struct: what a checkpoint calls each part, and the field.
macro_rules! named {
    ($part:ty { $($name:literal => $field:ident),* $(,)? }) => {
        impl $crate::surgery::Named for $part {
            fn visit(
                &self,
                at: &str,
                see: &mut $crate::surgery::See,
            ) -> $crate::error::Result<()> {
                $($crate::surgery::Named::visit(
                    &self.$field,
                    &$crate::surgery::below(at, $name),
                    see,
                )?;)*
                Ok(())
            }

            fn visit_mut(
                &mut self,
                at: &str,
                change: &mut $crate::surgery::Change,
            ) -> $crate::error::Result<()> {
                $($crate::surgery::Named::visit_mut(
                    &mut self.$field,
                    &$crate::surgery::below(at, $name),
                    change,
                )?;)*
                Ok(())
            }

            fn pack(&mut self) -> $crate::error::Result<()> {
                $($crate::surgery::Named::pack(&mut self.$field)?;)*
                Ok(())
            }
        }
    };
}

/// Implements [`Named`] and [`Model`] for a model with a head: the head's parts, and which of them
/// is a head over the vocabulary.
macro_rules! head {
    ($model:ty { $($name:literal => $field:ident),* } $(, decoder $decoder:ident)?) => {
        $crate::surgery::named!($model { "bert" => bert, $($name => $field),* });

        impl $crate::surgery::Model for $model {
            fn base(&self) -> &BertModel {
                &self.bert
            }

            fn base_mut(&mut self) -> &mut BertModel {
                &mut self.bert
            }

            $(fn predictions(&self) -> Option<&PredictionHead> {
                Some(&self.$decoder)
            }

            fn predictions_mut(&mut self) -> Option<&mut PredictionHead> {
                Some(&mut self.$decoder)
            })?
        }
    };
}

pub(crate) use {head, named};

/// `name` within the part called `at`.
pub(crate) fn below(at: &str, name: &str) -> String {
    match (at, name) {
        ("", name) => name.to_owned(),
        (at, "") => at.to_owned(),
        (at, name) => format!("{at}.{name}"),
    }
}

impl Named for Tensor {
    fn visit(&self, at: &str, see: &mut See) -> Result<()> {
        see(at, Parameter(Place::Tensor(self)))
    }

    fn visit_mut(&mut self, at: &str, change: &mut Change) -> Result<()> {
        change(at, self)
    }

    fn pack(&mut self) -> Result<()> {
        Ok(())
    }
}

impl<T: Named> Named for Option<T> {
    fn visit(&self, at: &str, see: &mut See) -> Result<()> {
        self.iter().try_for_each(|part| part.visit(at, see))
    }

    fn visit_mut(&mut self, at: &str, change: &mut Change) -> Result<()> {
        self.iter_mut().try_for_each(|part| part.visit_mut(at, change))
    }

    fn pack(&mut self) -> Result<()> {
        self.iter_mut().try_for_each(Named::pack)
    }
}

impl<T: Named> Named for Vec<T> {
    fn visit(&self, at: &str, see: &mut See) -> Result<()> {
        self.iter()
            .enumerate()
            .try_for_each(|(i, part)| part.visit(&below(at, &i.to_string()), see))
    }

    fn visit_mut(&mut self, at: &str, change: &mut Change) -> Result<()> {
        let mut parts = self.iter_mut().enumerate();
        parts.try_for_each(|(i, part)| part.visit_mut(&below(at, &i.to_string()), change))
    }

    fn pack(&mut self) -> Result<()> {
        self.iter_mut().try_for_each(Named::pack)
    }
}

impl Named for LinearWeights {
    fn visit(&self, at: &str, see: &mut See) -> Result<()> {
        visit_maps(self, &[""], at, see)
    }

    fn visit_mut(&mut self, at: &str, change: &mut Change) -> Result<()> {
        visit_maps_mut(self, &[""], at, change)
    }

    fn pack(&mut self) -> Result<()> {
        Ok(LinearWeights::pack(self)?)
    }
}

/// [`Named::visit`] for the maps of joined weights, which have a name each.
pub(crate) fn visit_maps(
    weights: &LinearWeights,
    names: &[&str],
    at: &str,
    see: &mut See,
) -> Result<()> {
    for (map, name) in names.iter().enumerate() {
        for (which, kind) in ["weight", "bias"].iter().enumerate() {
            let place = match weights.tensors(map) {
                Some(tensors) => Place::Tensor(&tensors[which]),
                None => Place::Packed(weights, map, which),
            };
            see(&below(&below(at, name), kind), Parameter(place))?;
        }
    }
    Ok(())
}

/// [`Named::visit_mut`] for the maps of joined weights, which have a name each.
pub(crate) fn visit_maps_mut(
    weights: &mut LinearWeights,
    names: &[&str],
    at: &str,
    change: &mut Change,
) -> Result<()> {
    for (tensors, name) in weights.named()?.iter_mut().zip(names) {
        for (tensor, kind) in tensors.iter_mut().zip(["weight", "bias"]) {
            change(&below(&below(at, name), kind), tensor)?;
        }
    }
    Ok(())
}

named!(EmbeddingWeights { "weight" => weight });
named!(LayerNormWeights { "weight" => gamma, "bias" => beta });

/// A whole model.
pub trait Model: Named {
    /// The model below the head, or the model itself.
    fn base(&self) -> &BertModel;

    /// [`Model::base`] to change it.
    fn base_mut(&mut self) -> &mut BertModel;

    /// The head over the vocabulary, where the model has one.
    fn predictions(&self) -> Option<&PredictionHead> {
        None
    }

    /// [`Model::predictions`] to change it.
    fn predictions_mut(&mut self) -> Option<&mut PredictionHead> {
        None
    }
}

/// What can be done with the parameters of every model.
///
/// Names are those of transformers' checkpoints: `bert.` comes first where the model has a head.
/// What is tied to another parameter (a decoder to the word embeddings) is not one of its own.
pub trait Parameters: Model {
    /// The model below the head, or the model itself.
    fn bert(&self) -> &BertModel {
        self.base()
    }

    /// The model's configuration.
    fn config(&self) -> &BertConfig {
        self.base().config()
    }

    /// Calls `see` with the name and the value of every parameter, in the order of the forward pass.
    ///
    /// # Errors
    /// What `see` returns.
    fn for_each_parameter(&self, mut see: impl FnMut(&str, Parameter) -> Result<()>) -> Result<()>
    where
        Self: Sized,
    {
        self.visit("", &mut see)
    }

    /// The number of elements of all parameters. Hugging Face: `num_parameters`.
    fn num_parameters(&self) -> usize
    where
        Self: Sized,
    {
        count(self, |_| true)
    }

    /// The number of elements of the parameters that are trained.
    fn num_trainable_parameters(&self) -> usize
    where
        Self: Sized,
    {
        count(self, |parameter| parameter.is_variable())
    }

    /// Trains the parameters whose names `chosen` accepts, and no others; returns them.
    ///
    /// Chosen parameters become variables that the model computes with, so that what an optimizer
    /// writes into them counts at once. The others keep their values and get no gradient. Clones of a
    /// model share its variables; a clone that is frozen is a snapshot.
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
    /// When memory for the variables cannot be had.
    fn set_trainable(&mut self, mut chosen: impl FnMut(&str) -> bool) -> Result<VarMap>
    where
        Self: Sized,
    {
        let vars = VarMap::new();
        // What the built-in checkpoint says of itself is no longer true.
        self.base_mut().config_mut().other.remove("untrained");
        if let Some(head) = self.predictions_mut() {
            head.unpack_decoder();
        }
        self.visit_mut("", &mut |name, parameter| {
            if chosen(name) {
                let var = Var::from_tensor(parameter)?;
                *parameter = var.as_tensor().clone();
                let mut vars = vars.data().lock().unwrap_or_else(PoisonError::into_inner);
                vars.insert(name.to_owned(), var);
            } else if parameter.is_variable() {
                *parameter = parameter.detach().copy()?;
            }
            Ok(())
        })?;
        Ok(vars)
    }

    /// Makes of a model one for inference: no parameter is a variable any more, so that nothing is
    /// remembered for gradients, and on the CPU in F32 the matrices lie as its kernels read them. The
    /// numbers are what they were, whatever becomes of the variables. `from_pretrained` gives frozen
    /// models; only those are fast.
    ///
    /// There, a decoder over the vocabulary is copied for them, because
    /// [`get_output_embeddings`](Parameters::get_output_embeddings) lends the matrix itself: 4 V H
    /// bytes, 94 MB in bert-base. Put another one in its place with the `set_` functions; what is
    /// written into a tensor that a frozen model holds does not count.
    ///
    /// # Errors
    /// When memory for the parameters cannot be had.
    fn freeze(&mut self) -> Result<()>
    where
        Self: Sized,
    {
        if self.num_trainable_parameters() > 0 {
            self.set_trainable(|_| false)?;
        }
        self.pack()?;
        pack_decoder(self, |_| true)
    }

    /// The word embeddings: `[V, H]`. Hugging Face: `get_input_embeddings`.
    fn get_input_embeddings(&self) -> &Tensor {
        self.base().embeddings.word_embeddings()
    }

    /// Puts another table in the place of the word embeddings: `[V, H]`. A tied decoder follows.
    /// Hugging Face: `set_input_embeddings`.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::DType`] or [`Error::Device`] for a table that does not fit;
    /// [`Error::Trainable`] while the model trains.
    fn set_input_embeddings(&mut self, table: Tensor) -> Result<()>
    where
        Self: Sized,
    {
        refuse_trainable(self, "set_input_embeddings")?;
        check_table("input embeddings", &table, self.get_input_embeddings())?;
        self.base_mut().set_word_embeddings(untracked(table)?)?;
        pack_decoder(self, PredictionHead::is_packed)
    }

    /// The matrix of the decoder over the vocabulary, `[V, H]`: the word embeddings where it is tied
    /// to them. `None` for models without such a head. Hugging Face: `get_output_embeddings`.
    fn get_output_embeddings(&self) -> Option<&Tensor> {
        self.predictions().map(|head| head.decoder(self.get_input_embeddings()))
    }

    /// Gives the head over the vocabulary a decoder of its own: `[V, H]`. It is no longer tied to the
    /// word embeddings. Hugging Face: `set_output_embeddings`.
    ///
    /// # Errors
    /// [`Error::NoDecoder`] for a model without such a head, and as
    /// [`Parameters::set_input_embeddings`].
    fn set_output_embeddings(&mut self, decoder: Tensor) -> Result<()>
    where
        Self: Sized,
    {
        refuse_trainable(self, "set_output_embeddings")?;
        check_table("output embeddings", &decoder, self.get_input_embeddings())?;
        let head = self.predictions_mut().ok_or(Error::NoDecoder)?;
        head.set_decoder(untracked(decoder)?);
        self.base_mut().config_mut().tie_word_embeddings = false;
        pack_decoder(self, PredictionHead::is_packed)
    }

    /// Changes the size of the vocabulary. New words get the mean of the old ones' embeddings (Hewitt
    /// 2021), as in transformers but for its noise of a variance of 10⁻⁹; the decoder, tied or not,
    /// and its bias follow. Hugging Face: `resize_token_embeddings`.
    ///
    /// # Errors
    /// [`Error::Config`] when no word, or not the padding token, would be left; [`Error::Trainable`]
    /// while the model trains.
    fn resize_token_embeddings(&mut self, words: usize) -> Result<()>
    where
        Self: Sized,
    {
        refuse_trainable(self, "resize_token_embeddings")?;
        let mut config = self.base().config().clone();
        // A negative id counts from the end, which moves.
        config.pad_token_id = config.padding_row().map(i64::from);
        config.vocab_size = words;
        config.validate()?;
        let table = resized(self.get_input_embeddings(), words)?;
        let head = self.predictions().map(|head| head.resized(words)).transpose()?;
        if let (Some(head), Some(place)) = (head, self.predictions_mut()) {
            *place = head;
        }
        *self.base_mut().config_mut() = config;
        self.base_mut().set_word_embeddings(table)?;
        pack_decoder(self, PredictionHead::is_packed)
    }
}

impl<M: Model> Parameters for M {}

/// Packs the decoder over the vocabulary where there is one that is `wanted`.
fn pack_decoder(model: &mut impl Model, wanted: fn(&PredictionHead) -> bool) -> Result<()> {
    let words = model.base().embeddings.word_embeddings().clone();
    match model.predictions_mut() {
        Some(head) if wanted(head) => head.pack_decoder(&words),
        _ => Ok(()),
    }
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

/// Refuses surgery on parameters that an optimizer holds: it would go on with the old ones.
pub(crate) fn refuse_trainable(model: &impl Named, what: &'static str) -> Result<()> {
    model.visit("", &mut |name, parameter| match parameter.is_variable() {
        true => Err(Error::Trainable { what, name: name.to_owned() }),
        false => Ok(()),
    })
}

/// Checks that a table of vectors can stand in the place of another one.
fn check_table(name: &'static str, got: &Tensor, old: &Tensor) -> Result<()> {
    if got.dims() != old.dims() {
        let expected =
            format!("{:?}; change the vocabulary with resize_token_embeddings", old.dims());
        return Err(Error::Shape { name, got: got.dims().to_vec(), expected });
    }
    if got.dtype() != old.dtype() {
        let expected = format!("{:?}", old.dtype());
        return Err(Error::DType { name, got: got.dtype(), expected });
    }
    crate::pass::mask::check_device(name, got, old.device())
}

/// A copy, row after row, to which no variable and no graph belongs, and which nobody else can write
/// into.
fn untracked(table: Tensor) -> Result<Tensor> {
    Ok(table.detach().contiguous()?.copy()?)
}

/// The first `rows` rows of `[V]` or `[V, H]`, and the mean of all of them where there are no more.
pub(crate) fn resized(table: &Tensor, rows: usize) -> Result<Tensor> {
    let old = table.dim(0)?;
    if rows <= old {
        return Ok(table.narrow(0, 0, rows)?.copy()?);
    }
    // F64 on the host: the mean of many rows in half precision would be far off.
    let mean = table.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.mean_keepdim(0)?;
    let mean = mean.to_dtype(table.dtype())?.to_device(table.device())?;
    let shape = [&[rows - old], &table.dims()[1..]].concat();
    Ok(Tensor::cat(&[table, &mean.broadcast_as(shape)?], 0)?)
}
