//! The parameters of operations, and the forms in which linear maps store theirs.
//!
//! A new form (another dtype, quantized) is a variant of [`WeightForm`] and of `Stored` here, and a kernel
//! that multiplies by it.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{D, DType, Device, Result, Tensor};

use crate::cpu::gemm::PackedMatrix;
use crate::ids::Ids;

/// Parameters of [`embedding`](crate::embedding).
#[derive(Clone, Debug)]
pub struct EmbeddingWeights {
    /// One row per id: `[V, H]`.
    pub weight: Tensor,
    /// The id whose row gets no gradient. PyTorch: `padding_idx` of `nn.Embedding`.
    pub padding: Option<u32>,
}

/// Parameters of [`layer_norm`](crate::layer_norm).
#[derive(Clone, Debug)]
pub struct LayerNormWeights {
    /// `γ`: `[H]`. PyTorch: `weight`.
    pub gamma: Tensor,
    /// `β`: `[H]`. PyTorch: `bias`.
    pub beta: Tensor,
    /// Added to the variance before the square root.
    pub eps: f64,
}

impl LayerNormWeights {
    /// The dimensions of a sum of tensors `[…, H]` and of rows of tables `[V, H]`; `None` if they do not fit
    /// each other and γ and β, or if there is nothing to compute.
    pub(crate) fn dims_of_sum(&self, terms: &[(&Tensor, Option<&Ids>)]) -> Option<Vec<usize>> {
        let h = self.gamma.elem_count();
        let dims = match terms {
            [(x, None), ..] => x.dims().to_vec(),
            [(_, Some(ids)), ..] => vec![ids.dims().0, ids.dims().1, h],
            [] => return None,
        };
        let fits = |(term, ids): &(&Tensor, Option<&Ids>)| match (ids, &dims[..]) {
            (None, _) => term.dims() == dims,
            (Some(ids), &[b, s, _]) => {
                let table_fits =
                    matches!(*term.dims(), [v, width] if v >= ids.bound() && width == h);
                table_fits && !ids.has_absent() && (ids.dims() == (b, s) || ids.dims() == (1, s))
            }
            _ => false,
        };
        let weights_fit = dims.last() == Some(&h) && self.beta.dims() == self.gamma.dims();
        (weights_fit && !dims.contains(&0) && terms.iter().all(fits)).then_some(dims)
    }
}

/// A form in which linear maps can store their weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WeightForm {
    /// `W` `[O, I]` and `b` `[O]` as tensors, like PyTorch's `nn.Linear`.
    Unpacked,
    /// As the backend's matrix multiplication reads them, for inference. On the CPU in F32, in the order of
    /// its kernel; on CUDA, projections of one input in one matrix. Others stay unpacked, and all with the
    /// feature `accelerate`.
    #[default]
    Packed,
}

/// The parameters of [`linear`](crate::linear), or of several linear maps ("projections") that share
/// their input.
#[derive(Clone)]
pub struct LinearWeights {
    stored: Stored,
}

#[derive(Clone)]
enum Stored {
    /// `W`, `[O, I]`, and `b`, `[O]`, of each projection.
    Unpacked(Vec<[Tensor; 2]>),
    /// `W`, `[ΣO, I]`, and `b`, `[ΣO]`, of all projections, and views of them for each.
    Joined {
        all: [Tensor; 2],
        each: Vec<[Tensor; 2]>,
    },
    Packed(Arc<PackedMatrix>),
}

impl LinearWeights {
    /// One projection. `weight`: `[O, I]`; `bias`: `[O]`.
    pub fn new(weight: Tensor, bias: Tensor) -> Self {
        Self { stored: Stored::Unpacked(vec![[weight, bias]]) }
    }

    /// Several projections of one input.
    ///
    /// # Errors
    /// When there are none, or packed ones cannot be unpacked.
    pub fn join(weights: impl IntoIterator<Item = Self>) -> Result<Self> {
        let mut joined = Vec::new();
        for mut weights in weights {
            joined.extend_from_slice(weights.unpack_mut()?);
        }
        if joined.is_empty() {
            candle_core::bail!("linear: there are no projections to join");
        }
        Ok(Self { stored: Stored::Unpacked(joined) })
    }

    /// The number of projections.
    pub fn projections(&self) -> usize {
        match &self.stored {
            Stored::Unpacked(each) | Stored::Joined { each, .. } => each.len(),
            Stored::Packed(matrix) => matrix.parts.len(),
        }
    }

    /// The dimensions of a projection's `W`: `[O, I]`.
    ///
    /// # Panics
    /// When there is no such projection: there are [`LinearWeights::projections`].
    pub fn dims(&self, projection: usize) -> [usize; 2] {
        match &self.stored {
            Stored::Unpacked(each) | Stored::Joined { each, .. } => {
                let dims = each[projection][0].dims();
                [dims[0], dims[dims.len() - 1]]
            }
            Stored::Packed(matrix) => [matrix.parts[projection].n, matrix.k],
        }
    }

    /// The dtype of the parameters.
    pub fn dtype(&self) -> DType {
        self.tensors(0).map_or(DType::F32, |[weight, _]| weight.dtype())
    }

    /// The form in which the weights are stored now.
    pub fn form(&self) -> WeightForm {
        match &self.stored {
            Stored::Unpacked(_) => WeightForm::Unpacked,
            Stored::Joined { .. } | Stored::Packed(_) => WeightForm::Packed,
        }
    }

    /// `W` of a projection: `[O, I]`.
    ///
    /// # Errors
    /// When it is packed and cannot be unpacked.
    ///
    /// # Panics
    /// When there is no such projection, as [`LinearWeights::dims`].
    pub fn weight(&self, projection: usize) -> Result<Tensor> {
        match &self.stored {
            Stored::Unpacked(each) | Stored::Joined { each, .. } => Ok(each[projection][0].clone()),
            Stored::Packed(matrix) => {
                let weight = matrix.unpack_weight(projection);
                Tensor::from_vec(weight, &self.dims(projection), &Device::Cpu)
            }
        }
    }

    /// `b` of a projection: `[O]`.
    ///
    /// # Errors
    /// When it is packed and cannot be unpacked.
    ///
    /// # Panics
    /// When there is no such projection, as [`LinearWeights::dims`].
    pub fn bias(&self, projection: usize) -> Result<Tensor> {
        match &self.stored {
            Stored::Unpacked(each) | Stored::Joined { each, .. } => Ok(each[projection][1].clone()),
            Stored::Packed(matrix) => Tensor::new(matrix.bias(projection), &Device::Cpu),
        }
    }

    /// `W` and `b` of a projection if there is such a projection and they are stored as tensors.
    pub fn tensors(&self, projection: usize) -> Option<&[Tensor; 2]> {
        match &self.stored {
            Stored::Unpacked(each) | Stored::Joined { each, .. } => each.get(projection),
            Stored::Packed(_) => None,
        }
    }

    /// Unpacks the weights and lends `W` and `b` of each projection for changes.
    ///
    /// # Errors
    /// When they cannot be unpacked.
    pub fn unpack_mut(&mut self) -> Result<&mut [[Tensor; 2]]> {
        if !matches!(self.stored, Stored::Unpacked(_)) {
            let unpacked = |i| Ok([self.weight(i)?, self.bias(i)?]);
            let all = (0..self.projections()).map(unpacked).collect::<Result<_>>()?;
            self.stored = Stored::Unpacked(all);
        }
        match &mut self.stored {
            Stored::Unpacked(all) => Ok(all),
            _ => candle_core::bail!("unpacked weights are packed"),
        }
    }

    /// Packs weights that are stored as tensors for the CPU's kernel, if it multiplies by them.
    pub(crate) fn pack(&mut self) -> Result<()> {
        if let Stored::Unpacked(each) = &self.stored
            && let Some(matrix) = PackedMatrix::pack(each)?
        {
            self.stored = Stored::Packed(Arc::new(matrix));
        }
        Ok(())
    }

    /// Copies several projections into one matrix.
    pub(crate) fn join_projections(&mut self) -> Result<()> {
        if let Stored::Unpacked(each) = &self.stored
            && each.len() > 1
        {
            self.stored = Stored::join(each)?;
        }
        Ok(())
    }

    /// `W` and `b` of some projections in one matrix, if they are joined.
    ///
    /// # Errors
    /// When there are no such projections.
    pub(crate) fn joined(&self, projections: Range<usize>) -> Result<Option<[Tensor; 2]>> {
        let Stored::Joined { all: [weight, bias], .. } = &self.stored else { return Ok(None) };
        let (start, count) = (self.outputs(0..projections.start), self.outputs(projections));
        Ok(Some([weight.narrow(0, start, count)?, bias.narrow(0, start, count)?]))
    }

    /// The columns of each of the projections in `y`, the result of [`LinearWeights::joined`]: `[…, ΣO]` →
    /// `[…, O]` each.
    pub(crate) fn split(&self, y: &Tensor, projections: Range<usize>) -> Result<Vec<Tensor>> {
        let start = projections.start;
        let columns = |i: usize| y.narrow(D::Minus1, self.outputs(start..i), self.dims(i)[0]);
        projections.map(columns).collect()
    }

    /// `ΣO` of some projections.
    fn outputs(&self, projections: Range<usize>) -> usize {
        projections.map(|i| self.dims(i)[0]).sum()
    }

    /// The packed matrix, if `x` can be multiplied by it.
    pub(crate) fn packed_for(&self, x: &Tensor) -> Option<&PackedMatrix> {
        match &self.stored {
            Stored::Packed(matrix) if x.dtype() == DType::F32 && !x.track_op() => Some(matrix),
            _ => None,
        }
    }
}

impl Stored {
    /// Projections `[O, I]` of one input, and their biases, in one matrix and one vector.
    fn join(each: &[[Tensor; 2]]) -> Result<Self> {
        let part = |which: usize| each.iter().map(move |it| &it[which]).collect::<Vec<_>>();
        let all = [Tensor::cat(&part(0), 0)?, Tensor::cat(&part(1), 0)?];
        let mut start = 0;
        let views = each.iter().map(|[_, bias]| {
            let count = bias.elem_count();
            start += count;
            let view = |all: &Tensor| all.narrow(0, start - count, count);
            Ok([view(&all[0])?, view(&all[1])?])
        });
        let each = views.collect::<Result<_>>()?;
        Ok(Self::Joined { all, each })
    }
}

/// All dimensions of `x`, `[…, I]`, except the last, and their product M. Refuses another `I` and a
/// result `[M, O]` that cannot exist in memory.
pub(crate) fn rows_of(x: &Tensor, [o, i]: [usize; 2]) -> Result<(&[usize], usize)> {
    let dims = x.dims();
    let Some((_, leading)) = dims.split_last().filter(|(last, _)| **last == i) else {
        candle_core::bail!("linear: x has shape {dims:?}, expected {i} in the last dimension");
    };
    let rows = leading.iter().try_fold(1usize, |rows, size| rows.checked_mul(*size));
    let most = isize::MAX as usize / size_of::<f64>() / o.max(1);
    match rows.filter(|rows| *rows <= most) {
        Some(rows) => Ok((leading, rows)),
        None => candle_core::bail!(
            "linear: {leading:?} rows of {o} results do not fit into memory; pass fewer rows"
        ),
    }
}

impl std::fmt::Debug for LinearWeights {
    /// Sizes and form, without the elements.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dims: Vec<_> = (0..self.projections()).map(|i| self.dims(i)).collect();
        write!(f, "LinearWeights({dims:?}, {:?}, {:?})", self.dtype(), self.form())
    }
}
