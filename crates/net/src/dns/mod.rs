//! Questions of the guest, judged; answers for it, made here. Messages only: bytes in, bytes out.
