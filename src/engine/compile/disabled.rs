//! The same functions in a program without a compiler.

use super::CompileError;
use crate::engine::target::Target;

pub(super) use compile_here as compile_unchecked;

/// Says that there is no compiler.
///
/// # Errors
/// Always.
pub fn compile_here(_: &[u8], _: Option<Target>, _: bool) -> Result<Vec<u8>, CompileError> {
    let message = "this program was built without a compiler: its control plane compiles";
    Err(CompileError::Internal(message.to_owned()))
}
