;; Fails the first time it runs in a directory that it may write to, succeeds the second time, and
;; waits for an hour from the third time on. It counts by files in the first of its preopens that takes
;; them.
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 512) "12")
  ;; Whether a file of one letter was not there yet: it is now. 20 is EEXIST.
  (func $is_new (param $name i32) (result i32)
    (local $fd i32) (local $error i32)
    (local.set $fd (i32.const 3))
    (loop $next
      ;; O_CREAT | O_EXCL, with the right to write.
      (local.set $error (call $open (local.get $fd) (i32.const 0) (local.get $name) (i32.const 1)
        (i32.const 5) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 520)))
      (if (i32.eqz (local.get $error)) (then (return (i32.const 1))))
      (if (i32.eq (local.get $error) (i32.const 20)) (then (return (i32.const 0))))
      (local.set $fd (i32.add (local.get $fd) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $fd) (i32.const 16))))
    (call $exit (i32.const 99))
    (unreachable))
  (func (export "_start")
    (if (call $is_new (i32.const 512)) (then (call $exit (i32.const 1))))
    (if (call $is_new (i32.const 513)) (then (call $exit (i32.const 0))))
    ;; subscription at 0, as in p1-sleep.wat
    (i32.store (i32.const 16) (i32.const 1))
    (i64.store (i32.const 24) (i64.const 3600000000000))
    (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))))
