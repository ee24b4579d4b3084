//! What the CPU computes in F32: slices in, slices out.

pub(crate) mod attention;
pub(crate) mod gemm;
pub(crate) mod layer_norm;
pub(crate) mod rows;
pub(crate) mod simd;
pub(crate) mod slices;
pub(crate) mod team;
