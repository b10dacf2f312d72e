<<<<<<<< HEAD:gateway/internal/console/build/assets/labels-CLnmaOgh.js
import{b as e,f as t}from"./query-DJIoP-dE.js";function n(n){let r=Object.entries(n.labels);return r.length?t(`ul`,{class:`labels`,"aria-label":`Labels`,children:r.map(([r,i])=>t(`li`,{children:t(`a`,{href:n.href(encodeURIComponent(`${r}=${i}`)),children:[e(r),`=`,e(i)]})},r))}):null}export{n as t};
========
import{S as e,m as t}from"./title-BEtRbHO1.js";function n(n){let r=Object.entries(n.labels);return r.length?t(`ul`,{class:`labels`,"aria-label":`Labels`,children:r.map(([r,i])=>t(`li`,{children:t(`a`,{href:n.href(encodeURIComponent(`${r}=${i}`)),children:[e(r),`=`,e(i)]})},r))}):null}export{n as t};
>>>>>>>> e5b0dfc0 (Complete the console: webhooks, settings of jobs, held executions):gateway/internal/console/build/assets/labels-DZUnTFpU.js
