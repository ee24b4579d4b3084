//! Matrix multiplication by cuBLASLt.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::cublaslt::{result, sys};
use candle_core::cuda_backend::cudarc::driver::{CudaStream, DevicePtr};
use candle_core::{DType, Result};

use result::CublasError;
use sys::cublasLtMatmulDescAttributes_t as DescAttribute;
use sys::cublasLtMatmulPreferenceAttributes_t as PrefAttribute;

/// The most memory that an algorithm may ask for beside its operands, in bytes.
const MOST_WORKSPACE: usize = 32 << 20;

/// `y = x Wᵀ + b` with row-major matrices: `x`, `[M, K]`; `w`, `[N, K]`, contiguous; `b`, `[N]`; `y`, `[M, N]`,
/// contiguous.
#[derive(Clone, Copy)]
pub(crate) struct Matmul {
    pub(crate) dtype: DType,
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) x: u64,
    /// From row to row of `x`, in numbers.
    pub(crate) x_stride: usize,
    pub(crate) w: u64,
    pub(crate) b: u64,
    pub(crate) y: u64,
}

/// A GPU's cuBLASLt, with the algorithms that it has chosen.
pub(crate) struct CublasLt {
    handle: Owned<sys::cublasLtHandle_t>,
    chosen: Mutex<HashMap<Case, Option<Algorithm>>>,
}

// SAFETY: cuBLASLt's handle may be used by several threads at a time ("Thread Safety" in its documentation).
unsafe impl Send for CublasLt {}
// SAFETY: as for `Send`.
unsafe impl Sync for CublasLt {}

/// Multiplications that share an algorithm.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Case {
    dtype: DType,
    /// The most rows: similar batches share an algorithm.
    m: usize,
    n: usize,
    k: usize,
    x_stride: usize,
    /// The alignments of w, x and y, in bytes.
    alignments: [u32; 3],
}

impl Case {
    fn new(matmul: Matmul, m: usize) -> Self {
        let alignment = |at: u64| 1 << at.trailing_zeros().min(8);
        Self {
            dtype: matmul.dtype,
            m,
            n: matmul.n,
            k: matmul.k,
            x_stride: matmul.x_stride,
            alignments: [matmul.w, matmul.x, matmul.y].map(alignment),
        }
    }
}

#[derive(Clone, Copy)]
struct Algorithm {
    algorithm: sys::cublasLtMatmulAlgo_t,
    workspace: usize,
}

/// Something of cuBLASLt's that has to be destroyed.
struct Owned<T: Copy> {
    raw: T,
    destroy: unsafe fn(T) -> std::result::Result<(), CublasError>,
}

impl<T: Copy> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: `raw` was created by the constructor that belongs to `destroy`, and nobody else destroys it. An
        // error here would have no consequence.
        let _ = unsafe { (self.destroy)(self.raw) };
    }
}

/// cuBLASLt's column-major view of a multiplication: `yᵀ = W xᵀ + b`, with W stored transposed.
struct Descriptors {
    matmul: Owned<sys::cublasLtMatmulDesc_t>,
    w: Owned<sys::cublasLtMatrixLayout_t>,
    x: Owned<sys::cublasLtMatrixLayout_t>,
    y: Owned<sys::cublasLtMatrixLayout_t>,
}

impl CublasLt {
    pub(crate) fn new() -> Result<Self> {
        let raw = result::create_handle().map_err(failed)?;
        let handle = Owned { raw, destroy: result::destroy_handle };
        Ok(Self { handle, chosen: Mutex::default() })
    }

    /// Multiplies, or returns false if cuBLASLt cannot.
    ///
    /// # Safety
    /// The addresses must be those of matrices of these sizes.
    pub(crate) unsafe fn multiply(&self, stream: &Arc<CudaStream>, matmul: Matmul) -> Result<bool> {
        if !matmul.b.is_multiple_of(16) {
            return Ok(false);
        }
        // An algorithm for a few rows more may not do for these.
        for m in [bucket(matmul.m), matmul.m] {
            let case = Case::new(matmul, m);
            let Some(algorithm) = self.algorithm(case, matmul)? else { continue };
            // SAFETY: the caller's promise.
            if unsafe { self.run(stream, matmul, algorithm) }? {
                return Ok(true);
            }
            self.chosen().insert(case, None);
        }
        Ok(false)
    }

    fn chosen(&self) -> MutexGuard<'_, HashMap<Case, Option<Algorithm>>> {
        self.chosen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn algorithm(&self, case: Case, matmul: Matmul) -> Result<Option<Algorithm>> {
        let mut chosen = self.chosen();
        if let Some(algorithm) = chosen.get(&case) {
            return Ok(*algorithm);
        }
        let found = Descriptors::new(Matmul { m: case.m, ..matmul })
            .and_then(|it| it.best_algorithm(self.handle.raw, case.alignments));
        let found = match found {
            Ok(found) => Some(found),
            Err(error) if is_refusal(error) => None,
            Err(error) => return Err(failed(error)),
        };
        Ok(*chosen.entry(case).or_insert(found))
    }

    unsafe fn run(
        &self,
        stream: &Arc<CudaStream>,
        matmul: Matmul,
        with: Algorithm,
    ) -> Result<bool> {
        let descriptors = Descriptors::new(matmul).map_err(failed)?;
        let workspace = match with.workspace {
            0 => None,
            // SAFETY: cuBLASLt writes before it reads.
            bytes => Some(unsafe { stream.alloc::<u8>(bytes) }.w()?),
        };
        let workspace = workspace.as_ref().map(|it| it.device_ptr(stream));
        let address = workspace.as_ref().map_or(std::ptr::null_mut(), |(at, _)| *at as *mut c_void);
        let (one, zero) = (1f32, 0f32);
        // SAFETY: the descriptors live until after the call and describe the matrices at these addresses; the
        // workspace is as large as the algorithm asked for.
        let done = unsafe {
            result::matmul(
                self.handle.raw,
                descriptors.matmul.raw,
                (&raw const one).cast(),
                (&raw const zero).cast(),
                matmul.w as *const c_void,
                descriptors.w.raw,
                matmul.x as *const c_void,
                descriptors.x.raw,
                matmul.y as *const c_void,
                descriptors.y.raw,
                matmul.y as *mut c_void,
                descriptors.y.raw,
                &with.algorithm,
                address,
                with.workspace,
                stream.cu_stream().cast(),
            )
        };
        match done {
            Ok(()) => Ok(true),
            Err(error) if is_refusal(error) => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }
}

impl Descriptors {
    fn new(matmul: Matmul) -> std::result::Result<Self, CublasError> {
        let dtype = match matmul.dtype {
            DType::F16 => sys::cudaDataType::CUDA_R_16F,
            DType::BF16 => sys::cudaDataType::CUDA_R_16BF,
            _ => sys::cudaDataType::CUDA_R_32F,
        };
        let matrix = |rows: usize, columns: usize, stride: usize| {
            let raw =
                result::create_matrix_layout(dtype, rows as u64, columns as u64, stride as i64)?;
            Ok(Owned { raw, destroy: result::destroy_matrix_layout })
        };
        // Not TF32: F32 has to have 24 bits.
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let raw = result::create_matmul_desc(compute, sys::cudaDataType::CUDA_R_32F)?;
        let Matmul { m, n, k, x_stride, b, .. } = matmul;
        let descriptors = Self {
            matmul: Owned { raw, destroy: result::destroy_matmul_desc },
            w: matrix(k, n, k)?,
            x: matrix(k, m, x_stride)?,
            y: matrix(n, m, n)?,
        };
        const TRANSPOSED: i32 = 1;
        descriptors.set(DescAttribute::CUBLASLT_MATMUL_DESC_TRANSA, &TRANSPOSED)?;
        let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS;
        descriptors.set(DescAttribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
        descriptors.set(DescAttribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &b)?;
        Ok(descriptors)
    }

    fn set<T>(&self, attribute: DescAttribute, value: &T) -> std::result::Result<(), CublasError> {
        let value: *const T = value;
        // SAFETY: cuBLASLt reads as many bytes as it is told to.
        unsafe {
            result::set_matmul_desc_attribute(
                self.matmul.raw,
                attribute,
                value.cast(),
                size_of::<T>(),
            )
        }
    }

    /// What cuBLASLt expects to be fastest.
    fn best_algorithm(
        &self,
        handle: sys::cublasLtHandle_t,
        [w, x, y]: [u32; 3],
    ) -> std::result::Result<Algorithm, CublasError> {
        let raw = result::create_matmul_pref()?;
        let preference = Owned { raw, destroy: result::destroy_matmul_pref };
        let set = |attribute, bytes: &[u8]| {
            let (value, size) = (bytes.as_ptr().cast(), bytes.len());
            // SAFETY: cuBLASLt reads as many bytes as it is told to.
            unsafe { result::set_matmul_pref_attribute(preference.raw, attribute, value, size) }
        };
        let most = PrefAttribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        set(most, &MOST_WORKSPACE.to_ne_bytes())?;
        let alignments = [
            (PrefAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, w),
            (PrefAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, x),
            (PrefAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, y),
            (PrefAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, y),
        ];
        for (attribute, bytes) in alignments {
            set(attribute, &bytes.to_ne_bytes())?;
        }
        let (w, x, y) = (self.w.raw, self.x.raw, self.y.raw);
        // SAFETY: all of them live until after the call.
        let found = unsafe {
            result::get_matmul_algo_heuristic(handle, self.matmul.raw, w, x, y, y, preference.raw)
        }?;
        Ok(Algorithm { algorithm: found.algo, workspace: found.workspaceSize })
    }
}

/// The least of eight sizes between two powers of two that is not below `m`.
fn bucket(m: usize) -> usize {
    m.next_multiple_of((m.next_power_of_two() / 16).max(1))
}

/// Whether cuBLASLt does not have a multiplication, or an algorithm does not do for it.
fn is_refusal(CublasError(status): CublasError) -> bool {
    use sys::cublasStatus_t::{CUBLAS_STATUS_INVALID_VALUE, CUBLAS_STATUS_NOT_SUPPORTED};
    matches!(status, CUBLAS_STATUS_INVALID_VALUE | CUBLAS_STATUS_NOT_SUPPORTED)
}

fn failed(error: CublasError) -> candle_core::Error {
    candle_core::Error::Msg(format!("cuBLASLt failed: {:?}", error.0))
}

#[cfg(test)]
mod tests {
    use super::bucket;

    #[test]
    fn a_bucket_is_at_most_an_eighth_larger() {
        assert_eq!([1, 7, 16, 17, 100, 128, 129].map(bucket), [1, 7, 16, 18, 104, 128, 144]);
        for m in 1..5000 {
            assert!(
                bucket(m) >= m && bucket(m) <= m + m / 8 + 1 && bucket(bucket(m)) == bucket(m),
                "{m}"
            );
        }
    }
}
