;; says "Paused" and waits in poll_oneoff for an hour, as upstream's image of tests without arguments
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  ;; an iovec at 256 of the text at 264
  (data (i32.const 264) "Paused\n")
  (func (export "_start")
    (i32.store (i32.const 256) (i32.const 264))
    (i32.store (i32.const 260) (i32.const 7))
    (drop (call $write (i32.const 1) (i32.const 256) (i32.const 1) (i32.const 280)))
    ;; subscription at 0, as in p1-sleep.wat
    (i32.store (i32.const 16) (i32.const 1))
    (i64.store (i32.const 24) (i64.const 3600000000000))
    (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))))
