package main

import "runtime"

// maxProcessors is the most that one data path uses of a machine: a core carries about two gigabytes a second.
const maxProcessors = 4

// useProcessors bounds the threads that run the code of this process at once. A packet wakes one goroutine after another; on
// threads of their own each of them would have to be woken by the kernel, which costs more than it wins. And what one
// sandbox's flood can take from its neighbours is bounded, too.
func useProcessors(n int) { runtime.GOMAXPROCS(min(n, runtime.GOMAXPROCS(0))) }

// dataPathProcessors is half the machine, at least one.
func dataPathProcessors() int { return max(1, min(maxProcessors, runtime.NumCPU()/2)) }
