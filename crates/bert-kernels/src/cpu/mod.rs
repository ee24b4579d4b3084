//! What the CPU computes in F32: slices in, slices out.

pub(crate) mod attention;
pub(crate) mod gemm;
pub(crate) mod norm;
pub(crate) mod shared;
pub(crate) mod simd;
pub(crate) mod team;
