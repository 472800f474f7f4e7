from absl.testing import absltest
from tests.streaming import tiny_world

class T(absltest.TestCase):
  def test_x(self):
    import time, numpy as np
    t=time.time(); w=tiny_world.make(); print('make',time.time()-t)
    t=time.time(); s=w.stream(); print('start',time.time()-t)
    for a in tiny_world.ACTIONS:
      t=time.time(); s,f=w.step(s,a); f=np.asarray(f); print('step',time.time()-t, f.mean(), f.std(), f.reshape(-1)[:10], np.abs(np.asarray(s.video.last_frame)).max())
    t=time.time(); o=np.asarray(w.continue_videos(w.starts[:1], np.concatenate([np.zeros((1,2,3)),tiny_world.ACTIONS[None]],1))); print('continue',time.time()-t)
    print(np.abs(o[0,-1].astype(int)-f[0]).max(), (o[0,-1]!=f[0]).mean())
if __name__ == '__main__':
  absltest.main()
