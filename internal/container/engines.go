//go:build linux

package container

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
)

// Bounds of what engines have written down, in octets.
const (
	maxConfig     = 4 << 20
	maxContainers = 64 << 20 // podman's list of all containers
	maxLabels     = 64
)

// recorded looks up what the engine wrote down about the container.
func (f *Finder) recorded(c claim, told conmon) (who identity, complete bool) {
	switch c.runtime {
	case RuntimePodman:
		who, complete = f.podman(c.id, told)
	case RuntimeDocker:
		b, err := readFile(filepath.Join(f.root, "var/lib/docker/containers", c.id, "config.v2.json"), maxConfig)
		if err == nil {
			who, complete = parseDocker(b, c.id)
		}
	case RuntimeContainerd, RuntimeKubernetes:
		who, complete = f.bundle(c.id)
	}
	who.claim = c
	return who, complete
}

// podman reads the storage that the container lies in: where its conmon says, or where root's is by default. The directory
// is called DRIVER-containers.
func (f *Finder) podman(id string, told conmon) (identity, bool) {
	storages, _ := filepath.Glob(filepath.Join(f.root, "var/lib/containers/storage/*-containers"))
	if dir, ok := strings.CutSuffix(told.bundle, "/"+id+"/userdata"); ok && filepath.IsAbs(dir) {
		storages = []string{dir}
	}
	who := identity{name: printable(told.name, maxText)}
	for _, storage := range storages {
		list, err := readFile(filepath.Join(storage, "containers.json"), maxContainers)
		if err != nil {
			continue
		}
		name, image, ok := parsePodman(list, id)
		if !ok {
			continue
		}
		who.name, who.image = name, image
		if spec, err := readFile(filepath.Join(storage, id, "userdata/config.json"), maxConfig); err == nil {
			who.labels = tidy(parseSpec(spec))
		}
		return who, true
	}
	return who, false
}

// parsePodman finds the container in the list of a containers-storage directory.
func parsePodman(list []byte, id string) (name, image string, ok bool) {
	var all []struct {
		ID       string   `json:"id"`
		Names    []string `json:"names"`
		Metadata string   `json:"metadata"`
	}
	if json.Unmarshal(list, &all) != nil {
		return "", "", false
	}
	for _, c := range all {
		if c.ID != id {
			continue
		}
		var m struct {
			Image string `json:"image-name"`
			Name  string `json:"name"`
		}
		json.Unmarshal([]byte(c.Metadata), &m) // of an older version without one the name is among the names
		if m.Name == "" && len(c.Names) > 0 {
			m.Name = c.Names[0]
		}
		return printable(m.Name, maxText), printable(m.Image, maxText), m.Name != ""
	}
	return "", "", false
}

// parseDocker reads a container's config.v2.json.
func parseDocker(b []byte, id string) (who identity, ok bool) {
	var c struct {
		ID, Name string
		Config   struct {
			Image  string
			Labels map[string]string
		}
	}
	if json.Unmarshal(b, &c) != nil || c.ID != id || c.Name == "" {
		return identity{}, false
	}
	return identity{name: printable(strings.TrimPrefix(c.Name, "/"), maxText), image: printable(c.Config.Image, maxText), labels: tidy(c.Config.Labels)}, true
}

// bundle reads the OCI runtime specification of a container of containerd or CRI-O.
func (f *Finder) bundle(id string) (identity, bool) {
	paths, _ := filepath.Glob(filepath.Join(f.root, "run/containerd/io.containerd.runtime.v2.task/*", id, "config.json"))
	paths = append(paths, filepath.Join(f.root, "run/containers/storage/overlay-containers", id, "userdata/config.json"))
	for _, p := range paths {
		if b, err := readFile(p, maxConfig); err == nil {
			return named(parseSpec(b))
		}
	}
	return identity{}, false
}

// parseSpec returns the annotations of an OCI runtime specification (config.json).
func parseSpec(b []byte) map[string]string {
	var spec struct {
		Annotations map[string]string `json:"annotations"`
	}
	if json.Unmarshal(b, &spec) != nil {
		return nil
	}
	return spec.Annotations
}

// named makes an identity of the annotations of containerd's CRI plug-in, CRI-O and nerdctl.
func named(a map[string]string) (who identity, ok bool) {
	who.labels = tidy(a)
	for _, k := range []struct{ namespace, name, image string }{
		{"io.kubernetes.cri.sandbox-namespace", "io.kubernetes.cri.sandbox-name", "io.kubernetes.cri.image-name"},
		{"io.kubernetes.pod.namespace", "io.kubernetes.pod.name", "io.kubernetes.cri-o.ImageName"},
		{"", "nerdctl/name", "nerdctl/image"},
	} {
		if a[k.name] == "" || k.namespace != "" && a[k.namespace] == "" {
			continue
		}
		who.name, who.image = printable(a[k.name], maxText), printable(a[k.image], maxText)
		if k.namespace != "" {
			who.name = printable(a[k.namespace], maxText) + "." + who.name
		}
		return who, true
	}
	return who, false
}

// tidy returns at most maxLabels of the labels, in order of their keys: those that are printable and not too long.
func tidy(labels map[string]string) map[string]string {
	var keys []string
	for k, v := range labels {
		if printable(k, maxText) == k && printable(v, maxText) == v {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	kept := map[string]string{}
	for _, k := range keys[:min(len(keys), maxLabels)] {
		kept[k] = labels[k]
	}
	return kept
}
