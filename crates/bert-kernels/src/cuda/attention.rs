//! Scaled dot-product attention.

use candle_core::cuda_backend::cudarc::driver::{CudaStream, DeviceRepr};
use candle_core::{DType, Device, Result, Tensor};

use super::confirmed::ATTENTION;
use super::gpu::{self, Launch};
use super::operand::{Guards, Matrix, Output, in_rows, type_name, u32_of};
use crate::kernels::dims_of_scores;
use crate::sequences::Sequences;

/// `Attention` of attention.cu.
#[repr(C)]
#[derive(Default)]
struct Attention {
    q: u64,
    k: u64,
    v: u64,
    out: u64,
    q_stride: u32,
    k_stride: u32,
    v_stride: u32,
    out_stride: u32,
    tiles: u64,
    tile_queries: u32,
    queries: u32,
    keys: u32,
    head_size: u32,
    scale: f32,
    bias: u64,
    bias_strides: [usize; 3],
}

// SAFETY: the fields are those of attention.cu.
unsafe impl DeviceRepr for Attention {}

/// A kernel of attention.cu.
struct Form {
    kernel: String,
    /// The most queries of a block.
    queries: usize,
    threads: u32,
    /// Shared memory of a block, in bytes.
    shared: usize,
}

impl Form {
    /// The kernel for heads of `d` numbers and sequences of at most `longest` queries. `aligned` says that
    /// all rows begin at multiples of 16 bytes. `None` for very large heads.
    fn choose(dtype: DType, d: usize, longest: usize, biased: bool, aligned: bool) -> Option<Self> {
        let name = type_name(dtype);
        if dtype != DType::F32 && aligned && d.is_multiple_of(8) && d <= 128 {
            let padded = d.next_power_of_two().max(32);
            let warps = if biased || longest <= 64 { 4 } else { 8 };
            let bias = if biased { "bias_" } else { "" };
            return Some(Self {
                kernel: format!("attention_{bias}{name}_{padded}_{warps}"),
                queries: warps * 16,
                threads: warps as u32 * 32,
                // Queries, and two stages of 64 keys and values.
                shared: (warps * 16 + 2 * 2 * 64) * padded * 2,
            });
        }
        let padded = if d <= 64 { 64 } else { 256 };
        // Queries, weights, and 32 keys and values.
        let shared = (32 * d + 32 * 32 + 2 * 32 * (d + 1)) * 4;
        let kernel = format!("attention_any_{name}_{padded}");
        (d <= padded).then_some(Self { kernel, queries: 32, threads: 256, shared })
    }
}

/// What a launch reads.
struct Operands<'a> {
    q: Matrix<'a>,
    k: Matrix<'a>,
    v: Matrix<'a>,
    tiles: Option<Matrix<'a>>,
    bias: Option<Matrix<'a>>,
}

/// See [`attention`](crate::attention); `mask` is added to the scores.
pub(crate) fn attention(
    [q, k, v]: [&Tensor; 3],
    (heads, scale): (usize, f64),
    mask: Option<&Tensor>,
    sequences: Option<&Sequences>,
) -> Result<Option<Tensor>> {
    let Some((gpu, device)) = gpu::of(q, ATTENTION)? else { return Ok(None) };
    // The kernel counts rows.
    let counts = |[b, _, queries, keys]: &[usize; 4]| u32::try_from(b * queries.max(keys)).is_ok();
    let scores = dims_of_scores([q, k, v], heads).filter(counts);
    let Some(scores @ [b, _, queries, keys]) = scores else { return Ok(None) };
    let bias = match mask.map(|mask| bias_of(mask, scores, q.device())).transpose()? {
        Some(Some(bias)) if sequences.is_none() => Some(bias),
        None => None,
        // The definition returns the error.
        _ => return Ok(None),
    };
    let (q, k, v) = (in_rows(q)?, in_rows(k)?, in_rows(v)?);
    let (h, rows) = (q.dim(2)?, [&q, &k, &v].map(Matrix::of));
    let [Some(q_rows), Some(k_rows), Some(v_rows)] = rows else { return Ok(None) };
    let aligned = [&q_rows, &k_rows, &v_rows].into_iter().all(Matrix::is_aligned);
    let longest = sequences.map_or(queries, Sequences::most_queries);
    let form = Form::choose(q.dtype(), h / heads, longest, bias.is_some(), aligned);
    let Some(form) = form.filter(|it| it.shared <= gpu.most_shared) else { return Ok(None) };
    let tiles = sequences.map(|it| it.tiles(form.queries, q.device())).transpose()?;
    let padded_blocks = b * queries.div_ceil(form.queries);
    let blocks = tiles.as_ref().map_or(padded_blocks, |tiles| tiles.dims()[0]);
    let sizes = Attention {
        out_stride: u32_of(h)?,
        tile_queries: u32_of(form.queries)?,
        queries: u32_of(queries)?,
        keys: u32_of(keys)?,
        head_size: u32_of(h / heads)?,
        scale: scale as f32,
        bias_strides: bias.as_ref().map_or([0; 3], |(_, strides)| *strides),
        ..Attention::default()
    };
    let operands = Operands {
        q: q_rows,
        k: k_rows,
        v: v_rows,
        tiles: tiles.as_ref().map(Matrix::first_of),
        bias: bias.as_ref().map(|(bias, _)| Matrix::first_of(bias)),
    };
    let (stream, mut output) =
        (device.cuda_stream(), Output::new(device, q.dtype(), b * queries * h)?);
    {
        let mut guards = Guards::new();
        let out = output.address(&stream, &mut guards)?;
        let arguments = Attention { out, ..operands.addresses(sizes, &stream, &mut guards)? };
        let Form { kernel, threads, shared, .. } = form;
        let launch = Launch { family: ATTENTION, kernel, blocks: (blocks, heads), threads, shared };
        // SAFETY: `Attention` is the kernel's parameter. Its sizes are those of the tensors; sequences were
        // checked against `q` and `k` by the caller; the strides of the bias are those of its view of all
        // scores.
        unsafe { gpu.launch(&stream, &launch, &arguments) }?;
    }
    Ok(Some(output.into_tensor((b, queries, h))))
}

impl Operands<'_> {
    /// The arguments with the addresses of the operands.
    fn addresses<'a>(
        &'a self,
        arguments: Attention,
        stream: &'a CudaStream,
        guards: &mut Guards<'a>,
    ) -> Result<Attention> {
        let Self { q, k, v, tiles, bias } = self;
        Ok(Attention {
            q: q.address(stream, guards)?,
            k: k.address(stream, guards)?,
            v: v.address(stream, guards)?,
            q_stride: u32_of(q.stride)?,
            k_stride: u32_of(k.stride)?,
            v_stride: u32_of(v.stride)?,
            tiles: tiles.as_ref().map_or(Ok(0), |tiles| tiles.address(stream, guards))?,
            bias: bias.as_ref().map_or(Ok(0), |bias| bias.address(stream, guards))?,
            ..arguments
        })
    }
}

/// A view of `mask` for all scores `[B, N, Q, K]` in which neighboring keys are neighbors, and its strides over
/// sequences, heads and queries. `None` if it does not fit.
fn bias_of(
    mask: &Tensor,
    scores: [usize; 4],
    device: &Device,
) -> Result<Option<(Tensor, [usize; 3])>> {
    let fits = mask.dtype() == DType::F32 && mask.device().same_device(device) && !mask.track_op();
    let Some((_, leading)) = mask.dims().split_last().filter(|_| fits) else { return Ok(None) };
    let rows = match mask.stride().last() {
        Some(1) if mask.dims().last() == Some(&scores[3]) => mask.clone(),
        // The same number for all keys, or another order in memory.
        _ => match mask.broadcast_as([leading, &[scores[3]]].concat()) {
            Ok(rows) => rows.contiguous()?,
            Err(_) => return Ok(None),
        },
    };
    let Ok(all) = rows.broadcast_as(&scores) else { return Ok(None) };
    let &[batch, head, query, _] = all.stride() else { return Ok(None) };
    Ok(Some((all, [batch, head, query])))
}
