//! A GPU's kernels: loaded once, launched by name.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaStream, DeviceRepr, DriverError, LaunchConfig,
    PushKernelArg, sys,
};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;
use candle_core::{CudaDevice, Device, Result, Tensor};

use super::confirmed::{ACTIVATION, ATTENTION, Family, LAYER_NORM, ROWS, is_used};
use super::matmul::CublasLt;

/// The lowest compute capability for which there are kernels: asynchronous copies and BF16 begin there.
pub(crate) const LEAST_CAPABILITY: (i32, i32) = (8, 0);

/// What build.rs makes of each family's `.cu` file.
const BINARIES: [(Family, &[u8]); 4] = [
    (ACTIVATION, include_bytes!(concat!(env!("OUT_DIR"), "/activation.fatbin"))),
    (ATTENTION, include_bytes!(concat!(env!("OUT_DIR"), "/attention.fatbin"))),
    (LAYER_NORM, include_bytes!(concat!(env!("OUT_DIR"), "/layer_norm.fatbin"))),
    (ROWS, include_bytes!(concat!(env!("OUT_DIR"), "/rows.fatbin"))),
];

/// A GPU, shared by all devices that Candle has for it.
pub(crate) struct Gpu {
    context: Arc<CudaContext>,
    modules: Mutex<HashMap<Family, Arc<CudaModule>>>,
    functions: RwLock<HashMap<String, CudaFunction>>,
    /// The most shared memory that a block can have, in bytes.
    pub(crate) most_shared: usize,
    pub(crate) cublas_lt: CublasLt,
}

/// How a kernel is launched.
pub(crate) struct Launch {
    pub(crate) family: Family,
    pub(crate) kernel: String,
    pub(crate) blocks: (usize, usize),
    pub(crate) threads: u32,
    /// Shared memory of a block, in bytes.
    pub(crate) shared: usize,
}

/// The GPU on which `x` is, if a family's kernels are used for its dtype there, and its device.
pub(crate) fn of(x: &Tensor, family: Family) -> Result<Option<(Arc<Gpu>, &CudaDevice)>> {
    let Device::Cuda(device) = x.device() else { return Ok(None) };
    if x.track_op() || !is_used(family, x.dtype()) {
        return Ok(None);
    }
    Ok(Gpu::get(&device.cuda_stream())?.map(|gpu| (gpu, device)))
}

impl Gpu {
    /// `None` if there are no kernels for a GPU of its age.
    fn get(stream: &CudaStream) -> Result<Option<Arc<Self>>> {
        static ALL: OnceLock<RwLock<HashMap<usize, Option<Arc<Gpu>>>>> = OnceLock::new();
        let (all, ordinal) = (ALL.get_or_init(RwLock::default), stream.context().ordinal());
        if let Some(gpu) = all.read().unwrap_or_else(PoisonError::into_inner).get(&ordinal) {
            return Ok(gpu.clone());
        }
        let made = Self::new(stream.context())?.map(Arc::new);
        let mut all = all.write().unwrap_or_else(PoisonError::into_inner);
        Ok(all.entry(ordinal).or_insert(made).clone())
    }

    fn new(context: &Arc<CudaContext>) -> Result<Option<Self>> {
        if context.compute_capability().w()? < LEAST_CAPABILITY {
            return Ok(None);
        }
        context.bind_to_thread().w()?; // cuBLASLt's handle belongs to the current context.
        let most = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        Ok(Some(Self {
            context: context.clone(),
            modules: Mutex::default(),
            functions: RwLock::default(),
            most_shared: context.attribute(most).w()? as usize,
            cublas_lt: CublasLt::new()?,
        }))
    }

    fn function(&self, launch: &Launch) -> Result<CudaFunction> {
        let functions = self.functions.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = functions.get(&launch.kernel) {
            return Ok(function.clone());
        }
        drop(functions);
        self.context.bind_to_thread().w()?;
        let function = self.module(launch.family)?.load_function(&launch.kernel).w()?;
        if launch.shared > 0 {
            let most =
                sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(most, self.most_shared as i32).w()?;
        }
        let mut functions = self.functions.write().unwrap_or_else(PoisonError::into_inner);
        Ok(functions.entry(launch.kernel.clone()).or_insert(function).clone())
    }

    fn module(&self, family: Family) -> Result<Arc<CudaModule>> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = modules.get(family) {
            return Ok(module.clone());
        }
        let binary =
            BINARIES.iter().find(|(name, _)| *name == family).map_or(&[][..], |(_, binary)| binary);
        let loaded = self.context.load_module(Ptx::from_binary(binary.to_vec()));
        let module = loaded.map_err(|error| cannot_load(family, error))?;
        modules.insert(family, module.clone());
        Ok(module)
    }

    /// Launches a kernel whose only parameter is a structure like `arguments`.
    ///
    /// # Safety
    /// The kernel must have that parameter, and may read and write what it points to.
    pub(crate) unsafe fn launch<A: DeviceRepr>(
        &self,
        stream: &CudaStream,
        launch: &Launch,
        arguments: &A,
    ) -> Result<()> {
        let (x, y) = launch.blocks;
        let (Ok(x), Ok(y), Ok(shared)) =
            (u32::try_from(x), u32::try_from(y), u32::try_from(launch.shared))
        else {
            candle_core::bail!(
                "{}: {x} by {y} blocks are too many; pass fewer rows",
                launch.kernel
            );
        };
        let function = self.function(launch)?;
        let config = LaunchConfig {
            grid_dim: (x, y, 1),
            block_dim: (launch.threads, 1, 1),
            shared_mem_bytes: shared,
        };
        let mut builder = stream.launch_builder(&function);
        // SAFETY: the caller's promise.
        unsafe { builder.arg(arguments).launch(config) }.w()?;
        Ok(())
    }
}

fn cannot_load(family: Family, error: DriverError) -> candle_core::Error {
    candle_core::Error::Msg(format!(
        "the CUDA kernels of {family} cannot be loaded: {error}. The driver is too old for CUDA 13, or this program was \
         built without nvcc"
    ))
}
