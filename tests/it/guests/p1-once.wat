;; Fails the first time it runs in a directory that it may write to, and succeeds from then on: it
;; leaves a file `foo` in the first of its preopens that takes one.
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "foo")
  (func (export "_start")
    (local $fd i32) (local $error i32)
    (local.set $fd (i32.const 3))
    (loop $next
      ;; O_CREAT | O_EXCL, with the right to write.
      (local.set $error (call $open (local.get $fd) (i32.const 0) (i32.const 0) (i32.const 3)
        (i32.const 5) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 16)))
      (if (i32.eqz (local.get $error)) (then (call $exit (i32.const 1))))
      ;; EEXIST: it was here before.
      (if (i32.eq (local.get $error) (i32.const 20)) (then (call $exit (i32.const 0))))
      (local.set $fd (i32.add (local.get $fd) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $fd) (i32.const 16))))
    (call $exit (i32.const 0))))
